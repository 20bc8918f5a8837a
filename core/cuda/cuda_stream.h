// The cudaStream_t of a Stream, ready for a launch or a call.
#pragma once

#include <cuda_runtime_api.h>

#include "core/device.h"  // Stream, Device

namespace ballot {

// Makes `device` the calling thread's.
void use_device(Device device);

// Makes the stream's device the calling thread's and gives its handle. LogicError for a stream of
// the CPU.
cudaStream_t stream_of(Stream& stream);

}  // namespace ballot
