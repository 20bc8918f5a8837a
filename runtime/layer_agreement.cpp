#include "runtime/layer_agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"

namespace ballot {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  if (values.empty()) return kNaN;
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double median_of_others(const LayerTable& table, std::size_t layer, std::size_t voter) {
  std::vector<double> others;
  for (std::size_t v = 0; v < table.voters; ++v)
    if (v != voter) others.push_back(table.share(layer, v));
  return median(std::move(others));
}

}  // namespace

std::string layer_of(const std::string& tensor) {
  for (std::size_t begin = 0; begin < tensor.size();) {
    const std::size_t end = std::min(tensor.find('.', begin), tensor.size());
    if (end > begin && std::all_of(tensor.begin() + static_cast<std::ptrdiff_t>(begin),
                                   tensor.begin() + static_cast<std::ptrdiff_t>(end),
                                   [](char c) { return c >= '0' && c <= '9'; }))
      return tensor.substr(0, end);
    begin = end + 1;
  }
  return tensor;
}

double LayerTable::share(std::size_t layer, std::size_t voter) const {
  const std::size_t place = layer * voters + voter;
  return compared[place] > 0
             ? static_cast<double>(agreed[place]) / static_cast<double>(compared[place])
             : kNaN;
}

void LayerTable::add(const LayerTable& other) {
  require(other.layers == layers && other.voters == voters,
          "agreement of {} layers and {} voters is added to that of {} and {}", other.layers.size(),
          other.voters, layers.size(), voters);
  steps += other.steps;
  for (std::size_t i = 0; i < agreed.size(); ++i) {
    agreed[i] += other.agreed[i];
    compared[i] += other.compared[i];
  }
}

std::vector<std::size_t> worst_layers(const LayerTable& table, std::size_t voter,
                                      std::size_t most) {
  if (table.voters < 3) return {};  // two have the same figures
  std::vector<double> behind;
  for (std::size_t layer = 0; layer < table.layers.size(); ++layer)
    behind.push_back(median_of_others(table, layer, voter) - table.share(layer, voter));
  std::vector<std::size_t> worst;
  for (std::size_t layer = 0; layer < behind.size(); ++layer) {
    if (std::isnan(behind[layer])) continue;
    std::vector<double> elsewhere = behind;
    elsewhere.erase(elsewhere.begin() + static_cast<std::ptrdiff_t>(layer));
    const double usual = median(std::move(elsewhere));
    if (std::isnan(usual)) continue;  // the only layer
    const auto count = static_cast<double>(table.compared[layer * table.voters + voter]);
    // Four standard errors of the difference of two shares near one half.
    const double chance = 4 * std::sqrt(0.5 / count);
    // As far as a whole voter must be behind to be alarming (agreement_watch.h).
    const double bad = (median_of_others(table, layer, voter) - 0.5) / 2;
    if (behind[layer] > std::max({chance, bad, 2 * usual})) worst.push_back(layer);
  }
  std::ranges::stable_sort(worst, std::ranges::greater{},
                           [&](std::size_t layer) { return behind[layer]; });
  if (worst.size() > most) worst.resize(most);
  return worst;
}

std::string describe_worst(const LayerTable& table, std::size_t voter) {
  std::string text;
  for (const std::size_t layer : worst_layers(table, voter))
    text += fmt::format("{} {} ({:.4f}, the others {:.4f})", text.empty() ? "; worst in" : ",",
                        table.layers[layer], table.share(layer, voter),
                        median_of_others(table, layer, voter));
  return text;
}

LayerMap::LayerMap(const BallotLayout& layout) {
  const auto segments = layout.segments();
  layer_of_segment_.resize(segments.size());
  for (std::size_t s = segments.size(); s-- > 0;) {
    const std::string layer = layer_of(segments[s].name);
    const auto known = std::ranges::find(layers_, layer);
    layer_of_segment_[s] = static_cast<std::size_t>(known - layers_.begin());
    if (known == layers_.end()) layers_.push_back(layer);
  }
}

LayerTable LayerMap::table(const SegmentAgreement& counted, std::int64_t steps) const {
  require(counted.segments() == layer_of_segment_.size(), "agreement in {} tensors, expected {}",
          counted.segments(), layer_of_segment_.size());
  LayerTable table;
  table.layers = layers_;
  table.voters = counted.voters();
  table.steps = steps;
  table.agreed.resize(layers_.size() * table.voters);
  table.compared.resize(layers_.size() * table.voters);
  for (std::size_t s = 0; s < counted.segments(); ++s)
    for (std::size_t v = 0; v < table.voters; ++v) {
      const std::size_t place = layer_of_segment_[s] * table.voters + v;
      table.agreed[place] += counted.agreed(s, v);
      table.compared[place] += counted.compared(s, v);
    }
  return table;
}

LayerAgreement::LayerAgreement(const BallotLayout& layout, std::size_t voters, Transport& transport)
    : transport_(transport), voters_(voters), map_(layout) {
  require(voters <= static_cast<std::size_t>(transport.size()), "{} voters of {} workers", voters,
          transport.size());
}

LayerTable LayerAgreement::gather(const SegmentAgreement& counted, std::int64_t steps,
                                  Deadline deadline) {
  require(counted.voters() == voters_, "agreement of {} voters, expected {}", counted.voters(),
          voters_);
  LayerTable table = map_.table(counted, steps);
  const std::size_t layers = map_.layers();
  const std::size_t ranks = static_cast<std::size_t>(transport_.size());
  const std::size_t me = static_cast<std::size_t>(transport_.rank());
  const std::size_t length = 2 * layers;
  // Column v to worker v: agreed and compared, layer by layer.
  std::vector<std::vector<std::int64_t>> columns(voters_), received;
  for (std::size_t v = 0; v < voters_; ++v)
    for (std::size_t layer = 0; layer < layers; ++layer) {
      columns[v].push_back(table.agreed[layer * voters_ + v]);
      columns[v].push_back(table.compared[layer * voters_ + v]);
    }
  std::vector<std::int64_t> sum(length);
  std::vector<SendParts> to(ranks);
  std::vector<ReceiveParts> from(ranks);
  for (std::size_t v = 0; v < voters_; ++v)
    if (v != me) to[v] = {std::as_bytes(std::span(columns[v]))};
  if (me < voters_) {
    sum = columns[me];
    received.assign(ranks, std::vector<std::int64_t>(length));
    for (std::size_t r = 0; r < ranks; ++r)
      if (r != me) from[r] = {std::as_writable_bytes(std::span(received[r]))};
  }
  transport_.start_exchange(Purpose::control, to, from)->wait(deadline);
  for (const std::vector<std::int64_t>& part : received)
    for (std::size_t i = 0; i < part.size(); ++i) sum[i] += part[i];

  std::vector<std::vector<std::int64_t>> sums(ranks, std::vector<std::int64_t>(length));
  sums[me] = sum;
  std::vector<Bytes> into;
  for (std::vector<std::int64_t>& one : sums)
    into.push_back(std::as_writable_bytes(std::span(one)));
  transport_.start_gather(Purpose::control, std::as_bytes(std::span(sum)), into)->wait(deadline);
  for (std::size_t v = 0; v < voters_; ++v)
    for (std::size_t layer = 0; layer < layers; ++layer) {
      table.agreed[layer * voters_ + v] = sums[v][2 * layer];
      table.compared[layer * voters_ + v] = sums[v][2 * layer + 1];
    }
  return table;
}

}  // namespace ballot
