// Which parameters are trained and which decay: the run's patterns over the model's names.
//
// A pattern is a whole name in which * stands for any text and ? for any one character
// ("model.layers.0.*", "*.bias"). One that no name fits is a mistake (ConfigError naming it and
// what the names look like).
#pragma once

#include <string_view>
#include <vector>

#include "core/parameter.h"  // ParameterShape
#include "runtime/run_config.h"

namespace ballot {

bool fits_pattern(std::string_view name, std::string_view pattern);

// The model's shapes with what train.freeze and train.no_decay say of them. ConfigError too where
// nothing would be trained.
std::vector<ParameterShape> with_rules(std::vector<ParameterShape> shapes, const RunConfig& config);

}  // namespace ballot
