// A sample as a person can read it: what the model is given, and what of it is trained on.
#pragma once

#include <string>

#include "models/model.h"
#include "models/tokenizer.h"

namespace ballot {

// Row `row` of a batch, document by document: decoded, special tokens by name, what is trained on
// between >> and <<. Long stretches are shortened in their middle.
std::string show_sample(const TokenBatch& batch, std::int64_t row, const Tokenizer& tokenizer);

}  // namespace ballot
