// SPDX-License-Identifier: Apache-2.0
// What every program relies on when it reads its command line: the outcome is one of three, and a value comes to its variable or nothing does.
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/arguments.h"

namespace somfs::cli {
namespace {

struct Line {
  CommandLine program{"About.", "prog"};
  std::string text = "before";
  std::vector<std::string> list;
  int number = 0, choice = 0;
  unsigned long bytes = 0;
  std::optional<double> seconds;
  bool flag = false, called = false;
  Option numbered = program.add_option("--number", number, "A number").range(1, 9);
  Command verb = make_verb();

  Line() {
    program.set_version_flag("--version", "prog 1");
    program.require_subcommand(1);
    verb.add_option("TEXT", text, "A text").required();
    verb.add_option("--list", list).one_of({"a", "b"});
    verb.add_option("--bytes", bytes).size();
    verb.add_option("--seconds", seconds).positive();
    verb.add_choice("--choice", choice, {{"one", 1}, {"two", 2}});
    const Option plain = verb.add_flag("--flag", flag);
    verb.add_flag("--other", other_).excludes(plain);
    verb.callback([this] { called = true; });
  }

  Parsed parse(std::vector<const char*> words) {
    words.insert(words.begin(), "prog");
    return program.parse(static_cast<int>(words.size()), words.data());
  }

 private:
  Command make_verb() {
    program.fallthrough();
    return program.add_subcommand("verb", "A verb");
  }

  bool other_ = false;
};

TEST(Arguments, AGoodLineSetsWhatItNamesAndNothingElse) {
  Line l;
  const Parsed p = l.parse({"verb", "x", "--list", "a", "b", "--bytes", "2k", "--seconds", "0.5", "--choice", "two", "--flag", "--number", "9"});
  ASSERT_FALSE(p.problem) << *p.problem;
  EXPECT_FALSE(p.answer);
  EXPECT_EQ(l.text, "x");
  EXPECT_EQ(l.list, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(l.bytes, 2048u);
  EXPECT_EQ(l.seconds, 0.5);
  EXPECT_EQ(l.choice, 2);
  EXPECT_EQ(l.number, 9);
  EXPECT_TRUE(l.flag);
  EXPECT_EQ(l.numbered.count(), 1u);
  EXPECT_TRUE(l.called && l.verb.parsed() && l.program.has_subcommand());

  Line bare;
  ASSERT_FALSE(bare.parse({"verb", "x"}).problem);
  EXPECT_FALSE(bare.seconds);
  EXPECT_EQ(bare.numbered.count(), 0u);
  EXPECT_FALSE(bare.flag);
}

TEST(Arguments, EveryMistakeIsOneClauseAndCallsNothing) {
  const struct {
    std::vector<const char*> words;
    const char* begins;
  } cases[] = {
      {{}, "A subcommand is required"},
      {{"verb"}, "TEXT is required"},
      {{"verb", "x", "--nope"}, "The following argument was not expected: --nope"},
      {{"verb", "x", "--number", "10"}, "--number: Value 10 not in range"},
      {{"verb", "x", "--seconds", "0"}, "--seconds: "},
      {{"verb", "x", "--list", "c"}, "--list: c not in {a,b}"},
      {{"verb", "x", "--bytes"}, "--bytes: 1 required UINT"},
      {{"verb", "x", "--flag", "--other"}, "--flag excludes --other"},
  };
  for (const auto& c : cases) {
    Line l;
    const Parsed p = l.parse(c.words);
    ASSERT_TRUE(p.problem) << c.begins;
    EXPECT_TRUE(p.problem->starts_with(c.begins)) << *p.problem << " does not begin with " << c.begins;
    EXPECT_EQ(p.problem->find('\n'), std::string::npos) << *p.problem;
    EXPECT_FALSE(p.answer || l.called) << c.begins;
  }
}

TEST(Arguments, HelpAndVersionAreAnswersWhateverElseIsWrong) {
  Line l;
  const Parsed help = l.parse({"verb", "--nope", "--help"});
  ASSERT_TRUE(help.answer && !help.problem);
  EXPECT_TRUE(help.answer->starts_with("A verb\nUsage: prog verb [OPTIONS] TEXT\n")) << *help.answer;
  EXPECT_FALSE(l.called);
  const Parsed version = Line().parse({"--version"});
  ASSERT_TRUE(version.answer && !version.problem);
  EXPECT_EQ(*version.answer, "prog 1\n");
}

TEST(Arguments, ToldAloudAProblemHasAHintAndACodeOfItsOwn) {
  Line l;
  const char* words[] = {"prog", "verb"};
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const std::optional<int> code = l.program.parse_and_tell(2, words);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "TEXT is required\nRun with --help for more information.\n");
  ASSERT_TRUE(code);
  EXPECT_GT(*code, 100);
  const char* good[] = {"prog", "verb", "x"};
  EXPECT_FALSE(Line().program.parse_and_tell(3, good));
}

}  // namespace
}  // namespace somfs::cli
