// In the plugin libballot_cuda_ptx.so: its launches run PTX.
#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "ptx/execute.h"
#include "ptx/module.h"   // PtxError
#include "simt/launch.h"  // set_executor

namespace ballot::ptx {
namespace {

void load_and_execute(const simt::Launch& launch) {
  // At the first launch and not when the plugin is opened, so that what is wrong can be said.
  static std::once_flag once;
  std::call_once(once, [] {
    std::vector<std::string> paths{
#include "ptx_files.inc"
    };
    // $BALLOT_PTX_INSTEAD, old=new: another file in the place of one (tests/cuda/mutations).
    if (const char* instead = std::getenv("BALLOT_PTX_INSTEAD")) {
      const std::string text = instead;
      const std::size_t middle = text.find('=');
      const auto old = std::find(paths.begin(), paths.end(), text.substr(0, middle));
      if (middle == std::string::npos || old == paths.end())
        throw PtxError("$BALLOT_PTX_INSTEAD names no file of this plugin: " + text);
      *old = text.substr(middle + 1);
    }
    load(paths);
  });
  execute_ptx(launch);
}

[[maybe_unused]] const bool chosen = [] {
  simt::set_executor(load_and_execute);
  return true;
}();

}  // namespace
}  // namespace ballot::ptx
