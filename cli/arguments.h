// SPDX-License-Identifier: Apache-2.0
// The command line of a program: what it may say, and what came of it. A facade over CLI11, which takes seconds to compile: arguments.cc
// alone includes it, and this header offers what the programs use of it, mostly by its names and with its meanings.
//
// A CommandLine owns its options, its sub-commands and theirs. Command and Option are handles into it, copied as one likes, good as long as it
// lives. What an option is bound to must live until the program has parsed; it keeps its value where the option is not given. Sub-commands
// and options appear in help in the order in which they are added.
//
// A name is a list with commas of -x and --word, or a bare WORD: a positional argument. What makes no sense (a name given twice, say) is
// the programmer's error and leaves as an exception of std::runtime_error; what a user writes wrongly never does, see CommandLine::parse.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace somfs::cli {

class Option {
 public:
  // What must hold for the command line to be good.
  Option required();
  Option excludes(const Option& other);
  // Each checks what is given, and says in help what it accepts.
  Option positive();                                     // a number above 0
  Option non_negative();
  Option range(int from, int to);                        // both ends included
  Option range(unsigned from, unsigned to);
  Option range(double from, double to);
  Option one_of(const std::vector<std::string>& words);
  Option size();                                         // a number of bytes with or without a unit, k being 1024: the value is in bytes
  // How many values it takes in all, and whether more may follow each mention (a list takes any number, unless this is said).
  Option expected(int values);
  Option allow_extra_args(bool value);
  // In help: beneath this heading; with the value that holds when it is not given, which is that of the variable now.
  Option group(const std::string& heading);
  Option capture_default_str();
  // After parsing: how often it was given; 0: not.
  std::size_t count() const;

 private:
  friend class Command;
  explicit Option(CLI::Option* option) : option_(option) {}
  CLI::Option* option_;
};

class Command {
 public:
  // Takes a value, to the variable. The types are those that help names: TEXT, INT, UINT, FLOAT.
  Option add_option(const std::string& name, std::string& variable, const std::string& help = "");
  Option add_option(const std::string& name, std::vector<std::string>& variable, const std::string& help = "");
  Option add_option(const std::string& name, int& variable, const std::string& help = "");
  Option add_option(const std::string& name, long& variable, const std::string& help = "");
  Option add_option(const std::string& name, unsigned& variable, const std::string& help = "");
  Option add_option(const std::string& name, unsigned long& variable, const std::string& help = "");
  Option add_option(const std::string& name, double& variable, const std::string& help = "");
  Option add_option(const std::string& name, std::optional<double>& variable, const std::string& help = "");
  // Takes one of the words, or its number: the variable gets the number.
  Option add_choice(const std::string& name, int& variable, const std::map<std::string, int>& words, const std::string& help = "");
  // Takes no value: the variable is true when it is given.
  Option add_flag(const std::string& name, bool& variable, const std::string& help = "");
  Option set_version_flag(const std::string& name, const std::string& version);

  Command add_subcommand(const std::string& name, const std::string& help);
  void require_subcommand(int count);   // exactly so many
  void fallthrough();                   // what a sub-command added from here on does not know may be an option of this command
  void footer(const std::string& text); // the end of help
  // Called during parsing, when all of the command line is good and this command was named in it.
  void callback(std::function<void()> action);

  // After parsing, a failed one too.
  bool parsed() const;                  // the command line names this command
  bool has_subcommand() const;          // or one of its own

 protected:
  explicit Command(CLI::App* app) : app_(app) {}
  CLI::App* app_;
};

// What came of a command line: nothing of both when it is good.
struct Parsed {
  std::optional<std::string> answer;    // help or the version was asked for: lines for standard output, then the program ends well
  std::optional<std::string> problem;   // the line is wrong: how, as one clause without a full stop or a new line
};

class CommandLine : public Command {
 public:
  // An empty name: as it is called. Every command has -h,--help by itself.
  explicit CommandLine(const std::string& about, const std::string& name = "");
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;
  ~CommandLine();

  // Prints nothing. What a callback throws passes through.
  Parsed parse(int argc, const char* const* argv);
  // For programs that have no way of their own to complain: prints the answer, or the problem with a hint on standard error, and returns
  // the code to exit with (each kind of problem has its own, above 100); nothing when the line is good and the program goes on.
  std::optional<int> parse_and_tell(int argc, const char* const* argv);

 private:
  std::unique_ptr<CLI::App> owned_;
};

}  // namespace somfs::cli
