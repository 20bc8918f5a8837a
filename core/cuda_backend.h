// The CUDA backend as the rest sees it. Which file implements it is CMake's choice: no_cuda.cpp in
// a build without one.
#pragma once

#include "core/device.h"  // Device

namespace ballot {

// The first GPU that can be used; Unavailable, saying why, when there is none or this build has no
// backend.
Device find_cuda_device();

}  // namespace ballot
