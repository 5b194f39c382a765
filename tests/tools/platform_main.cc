// SPDX-License-Identifier: Apache-2.0
// The main of platform tests: exits 77 ("skipped") when every test was skipped, the reasons being printed by the tests.
#include <gtest/gtest.h>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int code = RUN_ALL_TESTS();
  const ::testing::UnitTest& tests = *::testing::UnitTest::GetInstance();
  bool none_ran = tests.skipped_test_count() > 0 && tests.successful_test_count() == 0;
  return code == 0 && none_ran ? 77 : code;
}
