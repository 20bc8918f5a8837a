// The slow truth of models/ops/embedding.h.
#pragma once

#include <cstdint>
#include <vector>

namespace ballot::reference {

template <class S>
std::vector<S> embedding(const std::vector<S>& table, std::size_t cols,
                         const std::vector<std::int32_t>& tokens) {
  std::vector<S> x;
  for (const std::int32_t token : tokens)
    x.insert(x.end(), table.begin() + token * static_cast<std::int64_t>(cols),
             table.begin() + (token + 1) * static_cast<std::int64_t>(cols));
  return x;
}

}  // namespace ballot::reference
