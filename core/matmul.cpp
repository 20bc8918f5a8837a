#include "core/matmul.h"

#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/matmul_cpu.h"

namespace ballot {

void matmul(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate,
            Stream& stream) {
  const bool fits = a.rank == 2 && b.rank == 2 && c.rank == 2 && a.extent[0] == c.extent[0] &&
                    b.extent[1] == c.extent[1] && a.extent[1] == b.extent[0] && a.type == b.type;
  if (!fits || (c.stride[1] != 1 && c.extent[1] != 1))
      [[unlikely]]  // the message costs as much as a small product
    require(false, "matmul of {} and {} into {} (columns {} apart)", a.describe(), b.describe(),
            c.describe(), c.stride[1]);
  if (a.device != stream.device() || b.device != stream.device() || c.device != stream.device())
      [[unlikely]]
    require(false, "matmul on a stream of {} of tensors on {}, {} and {}",
            to_string(stream.device()), to_string(a.device), to_string(b.device),
            to_string(c.device));
  if (c.count() == 0) return;
  require(a.extent[1] > 0, "matmul over an empty inner dimension");
  if (stream.device().kind == Device::Kind::cuda)
    cuda_core().matmul(a, b, c, accumulate, stream);
  else
    matmul_cpu(a, b, c, accumulate);
}

}  // namespace ballot
