// A JSON tree as YAML that every reader takes as that very tree.
//
// Strings that YAML 1.1 or 1.2 would take for something else (yes, 1e3, 0x10, 12:30, "") are
// quoted; texts of several lines are literal blocks where that loses nothing.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace ballot {

// One document, with a newline at its end. ConfigError for a string that is not UTF-8.
std::string to_yaml(const nlohmann::ordered_json& tree);

}  // namespace ballot
