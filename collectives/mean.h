// The full-precision mean over workers: for groups that do not vote, and for the baselines.
//
// All-to-all of slices; the owner of a slice adds the contributions in the order of ranks in fp32,
// divides by the number of contributors, rounds once (bf16 wire), and copies the result to all:
// identical everywhere. It goes piece by piece (collective.h), as the vote does, so that a baseline
// overlaps with backward as well as the vote. A contribution that the caller declares absent for a
// segment (non-finite gradient) is left out of its sum and count; with no contributor the mean is 0
// and contributors() says so. With the bf16 wire every contribution is rounded before it is summed,
// the owner's own too, so the result does not depend on who owns what. One worker sends 2 (W-1)/W x
// N x 4 (or 2) bytes and per message a header of 40 bytes and 1 or 4 bytes a segment. The fp32 wire
// sends values() from where they lie and receives into them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "collectives/averaging.h"
#include "collectives/transport/transport.h"
#include "core/tensor.h"  // DType

namespace ballot {

class Mean final : public Averaging {
 public:
  // `segments`: lengths in elements of the tensors in the buffer, one after the other. `wire`: f32
  // or bf16. `piece_elements` 0: chosen by size. Equal on all ranks. `reader`: a GPU that copies to
  // and from values() while other work goes on.
  Mean(std::vector<std::int64_t> segments, DType wire, Transport& transport,
       std::int64_t piece_elements = 0, Device reader = {});
  ~Mean() override;

  // The caller writes its contribution here before it releases the segment; when advance() returns
  // true, the mean has come here.
  std::span<float> values();
  std::span<std::uint8_t> contributes() override;
  std::span<const std::int32_t> contributors() const override;

  std::size_t segments() const override;
  void begin(std::int64_t step) override;
  void release(std::size_t segment) override;
  bool advance() override;
  bool moved() const override;
  bool under_way() const override;
  double work_seconds() const override;
  void limit_in_flight(std::size_t pieces) override;
  [[noreturn]] void give_up() override;
  Transport& transport() override;

  // All at once on this thread: after begin() and the writing of values() and contributes().
  void reduce(Deadline deadline);

  // Bytes this worker sends: elements of the wire's type, and everything else.
  struct Cost {
    std::int64_t elements = 0, framing = 0;
    std::int64_t total() const { return elements + framing; }
  };
  Cost cost() const;
  std::int64_t pieces() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ballot
