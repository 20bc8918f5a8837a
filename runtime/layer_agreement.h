// How each voter's ballots agree with the majority of the others, layer by layer: where in the
// model a bad voter is bad.
//
// A vote counts it tensor by tensor, each worker what it tallies (Vote::counted(), at no message);
// once in a while, and when a voter alarms, the workers add up what they have: worker v sums voter
// v's, all gather the sums. 2 x 16 bytes a layer to and from every other worker.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/ballot_layout.h"
#include "collectives/segment_agreement.h"
#include "collectives/transport/transport.h"

namespace ballot {

// "model.layers.3" of a tensor's name: up to its first part that is a number. Another name: itself.
std::string layer_of(const std::string& tensor);

// Agreement over some steps. Layers in the order of the model, the first first.
struct LayerTable {
  std::vector<std::string> layers;
  std::size_t voters = 0;
  std::int64_t steps = 0;
  std::vector<std::int64_t> agreed, compared;  // by layer, then voter

  double share(std::size_t layer, std::size_t voter) const;  // NaN: nothing was compared
  void add(const LayerTable& other);
};

// The layers in which the voter is at most half as far above chance as the others' median, and
// further behind it than twice what it is in most of its other layers, and than chance alone
// explains; the worst first, at most `most`. None where it is everywhere alike, or with less than
// three voters.
std::vector<std::size_t> worst_layers(const LayerTable& table, std::size_t voter,
                                      std::size_t most = 3);
// "; worst in model.layers.1 (0.4123, the others 0.5534)" or nothing.
std::string describe_worst(const LayerTable& table, std::size_t voter);

// Which tensors of a ballot are of which layer.
class LayerMap {
 public:
  explicit LayerMap(const BallotLayout& layout);  // in backward order
  LayerTable table(const SegmentAgreement& counted, std::int64_t steps) const;
  std::size_t layers() const { return layers_.size(); }

 private:
  std::vector<std::string> layers_;
  std::vector<std::size_t> layer_of_segment_;
};

class LayerAgreement {
 public:
  // `layout` holds what is voted on, in backward order; `transport` must outlive it.
  LayerAgreement(const BallotLayout& layout, std::size_t voters, Transport& transport);

  // Collective. The sum of what all workers have counted over `steps`, the same on every worker.
  LayerTable gather(const SegmentAgreement& counted, std::int64_t steps, Deadline deadline);

 private:
  Transport& transport_;
  std::size_t voters_;
  LayerMap map_;
};

}  // namespace ballot
