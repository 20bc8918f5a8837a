// Takes each gradient the moment it is final.
//
// The model calls ready() once per parameter, in backward order, on the last micro-batch; a tied
// table comes last. The gradient stays valid until the next differentiate(). Called on the thread
// that runs differentiate(); must not block on the network (the step pipeline only starts
// transfers), and on a GPU should not wait for the device either.
#pragma once

#include "core/device.h"     // Stream
#include "core/parameter.h"  // Parameter

namespace ballot {

class GradientSink {
 public:
  virtual ~GradientSink() = default;
  // Once, before the first ready(): the mean loss of the batch, which may not be finite.
  virtual void loss_known(double mean_loss) { (void)mean_loss; }
  // `stream`: in whose order the gradient is final. Another one that reads it comes behind it.
  virtual void ready(const Parameter& parameter, Stream& stream) = 0;
};

}  // namespace ballot
