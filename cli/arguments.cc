// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.h"

#include <sstream>
#include <utility>

#include <CLI/CLI.hpp>

namespace somfs::cli {
namespace {

enum class Choice : int {};   // help calls it ENUM, not INT

}  // namespace

Option Option::required() { return Option(option_->required()); }
Option Option::excludes(const Option& other) { return Option(option_->excludes(other.option_)); }
Option Option::positive() { return Option(option_->check(CLI::PositiveNumber)); }
Option Option::non_negative() { return Option(option_->check(CLI::NonNegativeNumber)); }
Option Option::range(int from, int to) { return Option(option_->check(CLI::Range(from, to))); }
Option Option::range(unsigned from, unsigned to) { return Option(option_->check(CLI::Range(from, to))); }
Option Option::range(double from, double to) { return Option(option_->check(CLI::Range(from, to))); }
Option Option::one_of(const std::vector<std::string>& words) { return Option(option_->check(CLI::IsMember(words))); }
Option Option::size() { return Option(option_->transform(CLI::AsSizeValue(false))); }
Option Option::expected(int values) { return Option(option_->expected(values)); }
Option Option::allow_extra_args(bool value) { return Option(option_->allow_extra_args(value)); }
Option Option::group(const std::string& heading) { return Option(option_->group(heading)); }
Option Option::capture_default_str() { return Option(option_->capture_default_str()); }
std::size_t Option::count() const { return option_->count(); }

Option Command::add_option(const std::string& name, std::string& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, std::vector<std::string>& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, int& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, long& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, unsigned& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, unsigned long& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, double& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}
Option Command::add_option(const std::string& name, std::optional<double>& variable, const std::string& help) {
  return Option(app_->add_option(name, variable, help));
}

Option Command::add_choice(const std::string& name, int& variable, const std::map<std::string, int>& words, const std::string& help) {
  std::map<std::string, Choice> choices;
  for (const auto& [word, number] : words) choices[word] = static_cast<Choice>(number);
  CLI::Option* option = app_->add_option_function<Choice>(name, [&variable](Choice chosen) { variable = static_cast<int>(chosen); }, help);
  return Option(option->transform(CLI::CheckedTransformer(choices)));
}

Option Command::add_flag(const std::string& name, bool& variable, const std::string& help) { return Option(app_->add_flag(name, variable, help)); }
Option Command::set_version_flag(const std::string& name, const std::string& version) { return Option(app_->set_version_flag(name, version)); }

Command Command::add_subcommand(const std::string& name, const std::string& help) { return Command(app_->add_subcommand(name, help)); }
void Command::require_subcommand(int count) { app_->require_subcommand(count); }
void Command::fallthrough() { app_->fallthrough(); }
void Command::footer(const std::string& text) { app_->footer(text); }
void Command::callback(std::function<void()> action) { app_->callback(std::move(action)); }
bool Command::parsed() const { return app_->parsed(); }
bool Command::has_subcommand() const { return !app_->get_subcommands().empty(); }

CommandLine::CommandLine(const std::string& about, const std::string& name) : Command(nullptr), owned_(std::make_unique<CLI::App>(about, name)) {
  app_ = owned_.get();
}

CommandLine::~CommandLine() = default;

Parsed CommandLine::parse(int argc, const char* const* argv) {
  Parsed parsed;
  try {
    app_->parse(argc, argv);
  } catch (const CLI::Success& e) {   // help, version
    std::ostringstream out;
    app_->exit(e, out, out);
    parsed.answer = out.str();
  } catch (const CLI::ParseError& e) {
    parsed.problem = e.what();
  }
  return parsed;
}

std::optional<int> CommandLine::parse_and_tell(int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
    return {};
  } catch (const CLI::ParseError& e) {
    return app_->exit(e);
  }
}

}  // namespace somfs::cli
