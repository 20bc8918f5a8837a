#include "launcher/watch_screen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ballot {
namespace {

using testing::ElementsAre;

TEST(FitLine, CutsByCharactersNotBytes) {
  EXPECT_EQ(fit_line("plain", 10), "plain");
  EXPECT_EQ(fit_line("plain", 3), "pla");
  EXPECT_EQ(fit_line("\xc3\xa9t\xc3\xa9s", 3), "\xc3\xa9t\xc3\xa9");
  EXPECT_EQ(fit_line("\xe2\x82\xac\xf0\x9f\x98\x80x", 2), "\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(fit_line("anything", 0), "");
}

TEST(FitLine, LeavesNothingThatATerminalObeys) {
  EXPECT_EQ(fit_line("a\x1b[2Jb\r\n\t\x7f", 20), "a?[2Jb????");
  EXPECT_EQ(fit_line("\xc2\x9b"
                     "2J",
                     20),
            "?2J");  // one character that begins an order too
  EXPECT_EQ(fit_line("\xff\xc3", 20), "??");
  EXPECT_EQ(fit_line(std::string("\0", 1), 20), "?");
}

TEST(FitScreen, SaysHowManyLinesFindNoRoom) {
  const std::vector<std::string> lines{"one", "two", "three", "four"};
  EXPECT_THAT(fit_screen(lines, 4, 10), ElementsAre("one", "two", "three", "four"));
  EXPECT_THAT(fit_screen(lines, 3, 14), ElementsAre("one", "two", "(2 more lines)"));
  EXPECT_THAT(fit_screen(lines, 1, 14), ElementsAre("(4 more lines)"));
  EXPECT_THAT(fit_screen(lines, 4, 2), ElementsAre("on", "tw", "th", "fo"));
}

}  // namespace
}  // namespace ballot
