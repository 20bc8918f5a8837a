#include "launcher/rank_numbers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace ballot {

std::vector<std::vector<double>> gather_numbers(Transport& transport, std::span<const double> mine,
                                                Deadline deadline) {
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  std::vector<std::vector<double>> all(ranks, std::vector<double>(mine.size()));
  std::vector<Bytes> from;
  for (std::vector<double>& numbers : all)
    from.push_back(std::as_writable_bytes(std::span(numbers)));
  transport.start_gather(Purpose::control, std::as_bytes(mine), from)->wait(deadline);
  std::ranges::copy(mine, all[static_cast<std::size_t>(transport.rank())].begin());
  return all;
}

double largest(Transport& transport, double mine, Deadline deadline) {
  double result = mine;
  for (const auto& numbers : gather_numbers(transport, std::span(&mine, 1), deadline))
    result = std::max(result, numbers[0]);
  return result;
}

std::vector<std::string> gather_texts(Transport& transport, const std::string& mine,
                                      Deadline deadline) {
  const double length = static_cast<double>(mine.size());
  const auto lengths = gather_numbers(transport, std::span(&length, 1), deadline);
  std::vector<std::string> all;
  std::vector<Bytes> from;
  for (const auto& numbers : lengths) all.emplace_back(static_cast<std::size_t>(numbers[0]), ' ');
  for (std::string& text : all) from.push_back(std::as_writable_bytes(std::span(text)));
  transport.start_gather(Purpose::control, std::as_bytes(std::span(mine)), from)->wait(deadline);
  all[static_cast<std::size_t>(transport.rank())] = mine;
  return all;
}

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const double place = std::ceil(share * static_cast<double>(values.size())) - 1;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::max(0.0, place));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace ballot
