// SPDX-License-Identifier: Apache-2.0
// File names are bytes: they may hold newlines, escape sequences or broken UTF-8. Nothing prints one as it is.
#pragma once

#include <string>
#include <string_view>

namespace somfs {

// For a line on a terminal or in a log: control characters, backslashes and bytes that are not UTF-8 become \xHH.
std::string printable(std::string_view bytes);

}  // namespace somfs
