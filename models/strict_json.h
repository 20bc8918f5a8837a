// JSON from files that are not trusted: no duplicate keys, no deep nesting, errors that name the
// file.
//
// Included by .cpp files only, so that nlohmann's header stays out of ours.
#pragma once

#include <nlohmann/json.hpp>

#include <concepts>
#include <string>
#include <string_view>

namespace ballot {

// CorruptFile naming `name` for anything that is not JSON, repeats a key in one object or nests
// deeper than 64.
nlohmann::json parse_strict_json(std::string_view text, const std::string& name);

// `text` as it may stand in a message: quoted, control bytes and broken UTF-8 escaped, cut at 80
// bytes.
std::string shown(std::string_view text);
// A JSON value likewise. A template only so that no string is taken for JSON.
std::string shown_json(const nlohmann::json& value);
template <std::same_as<nlohmann::json> Json>
std::string shown(const Json& value) {
  return shown_json(value);
}

bool is_utf8(std::string_view text);

}  // namespace ballot
