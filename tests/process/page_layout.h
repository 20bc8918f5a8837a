// A page laid out by a real browser (headless Chromium), and what is wrong with its text: pieces
// that overlap, leave their block or picture, widen the page, or have too little contrast.
#pragma once

#include <string>
#include <vector>

namespace ballot {

struct PageLayout {
  std::vector<std::string> faults;  // "420 px: ..."
  int texts = 0;                    // looked at, at all widths
  bool dark = false;                // what the page was told the reader prefers
  std::string trouble;              // why there is no answer; else empty
};

// `html` at each of the widths (pixels). `folder`: where files may be made.
PageLayout lay_out(const std::string& html, const std::vector<int>& widths, bool dark,
                   const std::string& folder);

}  // namespace ballot
