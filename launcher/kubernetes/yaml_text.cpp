#include "launcher/kubernetes/yaml_text.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// What YAML 1.1 takes for a truth value or nothing.
bool is_reserved(std::string_view text) {
  constexpr std::array<std::string_view, 9> kWords = {"y",   "n",    "yes",   "no",  "on",
                                                      "off", "true", "false", "null"};
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return std::find(kWords.begin(), kWords.end(), lower) != kWords.end();
}

// A word or a path, or a flag: what nobody could take for a number, a date or a mark of YAML.
bool is_plain(std::string_view text) {
  const bool flag = text.size() > 2 && text.starts_with("--") && is_letter(text[2]);
  if (!flag && (text.empty() || !(is_letter(text[0]) || (text[0] == '/' && text.size() > 1))))
    return false;
  if (is_reserved(text) || text.back() == ':') return false;
  for (const char c : text)
    if (!is_letter(c) && !(c >= '0' && c <= '9') &&
        std::string_view("_./=:-").find(c) == std::string_view::npos)
      return false;
  return true;
}

// Characters that a literal block carries as they are: no control characters, and none of what some
// readers take for the end of a line.
bool is_literal_text(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte < 0x20 && byte != '\n') || byte >= 0x7f) return false;
  }
  return true;
}

// Several lines, the last one ended, none of which an indentation could change.
bool is_literal(std::string_view text) {
  if (text.size() < 2 || text.back() != '\n' || text[text.size() - 2] == '\n' || text[0] == ' ' ||
      text[0] == '\n' || !is_literal_text(text))
    return false;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    const std::string_view line = text.substr(begin, end - begin);
    if (!line.empty() && line.find_first_not_of(' ') == std::string_view::npos) return false;
    begin = end + 1;
  }
  return true;
}

void emit_string(YAML::Emitter& out, const std::string& text, bool key) {
  if (is_plain(text))
    out << text;
  else if (!key && is_literal(text))
    out << YAML::Literal << text;
  else
    out << YAML::DoubleQuoted << text;
}

void emit(YAML::Emitter& out, const Json& tree) {
  switch (tree.type()) {
    case Json::value_t::object:
      if (tree.empty()) out << YAML::Flow;
      out << YAML::BeginMap;
      for (const auto& [key, value] : tree.items()) {
        out << YAML::Key;
        emit_string(out, key, true);
        out << YAML::Value;
        emit(out, value);
      }
      out << YAML::EndMap;
      break;
    case Json::value_t::array:
      if (tree.empty()) out << YAML::Flow;
      out << YAML::BeginSeq;
      for (const Json& value : tree) emit(out, value);
      out << YAML::EndSeq;
      break;
    case Json::value_t::string:
      emit_string(out, tree.get_ref<const std::string&>(), false);
      break;
    case Json::value_t::boolean:
      out << tree.get<bool>();
      break;
    case Json::value_t::number_integer:
      out << tree.get<std::int64_t>();
      break;
    case Json::value_t::number_unsigned:
      out << tree.get<std::uint64_t>();
      break;
    case Json::value_t::null:
      out << YAML::Null;
      break;
    default:
      require(false, "a {} in a tree for YAML", tree.type_name());
  }
}

}  // namespace

std::string to_yaml(const Json& tree) {
  try {
    tree.dump();  // which checks UTF-8; yaml-cpp would write another character
  } catch (const Json::type_error&) {
    throw ConfigError("a name, a setting or the run file holds bytes that are not UTF-8");
  }
  YAML::Emitter out;
  out.SetIndent(2);
  out.SetOutputCharset(YAML::EscapeNonAscii);
  emit(out, tree);
  require(out.good(), "YAML: {}", out.GetLastError());
  std::string text = out.c_str();
  if (!text.ends_with('\n')) text += '\n';
  return text;
}

}  // namespace ballot
