// The PTX executor: launches run the PTX that nvcc made of a kernel instead of the kernel's source.
#pragma once

#include <string>
#include <vector>

#include "simt/launch.h"  // Launch

namespace ballot::ptx {

// Reads these files; every entry in them must be known to the last instruction (PtxError). An entry
// of one name in two files is refused. Before the first launch; adds to what was loaded before.
void load(const std::vector<std::string>& paths);

// An Executor for simt::set_executor. A kernel without PTX is a KernelFault.
void execute_ptx(const simt::Launch& launch);

}  // namespace ballot::ptx
