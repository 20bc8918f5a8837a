// The voted tensors of a benchmark: of a model by name, of a folder's config.json, or so many
// elements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/ballot_layout.h"
#include "core/parameter.h"  // ParameterShape

namespace ballot {

struct BenchShapes {
  std::string name;                   // "llama-3.1-8b", "64000000 elements"
  std::vector<ParameterShape> voted;  // matrices, in backward order
  std::int64_t voted_elements = 0;    // P
  std::int64_t all_elements = 0;      // with gains and biases, which are averaged
};

// Of a published model (models/published.h) or of a folder with a config.json. ConfigError
// otherwise, with the names.
BenchShapes model_shapes(const std::string& name_or_folder);

// `count` elements in matrices of rows of 4096.
BenchShapes flat_shapes(std::int64_t count);

// "64M" = 64,000,000; suffixes k, M, G, and Ki, Mi, Gi for powers of two. ConfigError otherwise.
std::int64_t parse_count(const std::string& text);

// Where they lie in a ballot: as in a parameter arena of just these.
BallotLayout ballot_layout(const BenchShapes& shapes);

}  // namespace ballot
