// What launcher and agent say to each other, as bytes.
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launcher/cluster/agent.h"

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kEnd =
    "\x01"
    "ballot agent: the command ended with ";  // no log has \x01

const Json& field(const Json& order, const char* name, Json::value_t type, const char* expected) {
  const auto found = order.find(name);
  if (found == order.end() || found->type() != type)
    throw ConfigError("ballot agent: an order whose \"{}\" is {}; expected {}", name,
                      found == order.end() ? "absent" : found->type_name(), expected);
  return *found;
}

std::string text_of(const Json& value, const char* name) {
  if (!value.is_string())
    throw ConfigError("ballot agent: an order with {} in its \"{}\"; expected texts only",
                      value.type_name(), name);
  std::string text = value.get<std::string>();
  if (text.find('\0') != std::string::npos)
    throw ConfigError("ballot agent: an order with a zero byte in its \"{}\"", name);
  return text;
}

double number_of(const Json& order, const char* name, double least, double most) {
  const auto found = order.find(name);
  const double value = found != order.end() && found->is_number() ? found->get<double>() : -1;
  if (!(value >= least && value <= most))
    throw ConfigError("ballot agent: an order whose \"{}\" is {}; expected a number of {} to {}",
                      name, found == order.end() ? "absent" : found->dump().substr(0, 60), least,
                      most);
  return value;
}

}  // namespace

std::string encode_order(const AgentOrder& order) {
  Json environment = Json::object();
  for (const auto& [name, value] : order.environment) environment[name] = value;
  const Json json{{"command", order.command},
                  {"environment", environment},
                  {"folder", order.folder},
                  {"leave_signal", order.leave_signal},
                  {"drain_seconds", order.drain_seconds},
                  {"silence_seconds", order.silence_seconds}};
  return json.dump() + "\n";
}

AgentOrder decode_order(std::string_view line) {
  if (line.size() > kLongestOrder)
    throw ConfigError("ballot agent: an order of {} bytes; expected at most {}", line.size(),
                      kLongestOrder);
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object())
    throw ConfigError("ballot agent: its standard input begins with no order of a launcher");
  AgentOrder order;
  for (const Json& word : field(json, "command", Json::value_t::array, "a list of words"))
    order.command.push_back(text_of(word, "command"));
  if (order.command.empty()) throw ConfigError("ballot agent: an order with an empty command");
  const Json& environment = field(json, "environment", Json::value_t::object, "names and values");
  for (const auto& [name, value] : environment.items()) {
    if (name.empty() || name.find('=') != std::string::npos || name.find('\0') != std::string::npos)
      throw ConfigError("ballot agent: an order with an environment variable of the name \"{}\"",
                        name.substr(0, 60));
    order.environment.emplace_back(name, text_of(value, "environment"));
  }
  order.folder = text_of(field(json, "folder", Json::value_t::string, "a text"), "folder");
  order.leave_signal = static_cast<int>(number_of(json, "leave_signal", 1, 64));
  order.drain_seconds = number_of(json, "drain_seconds", 0, 1e6);
  order.silence_seconds = number_of(json, "silence_seconds", 0, 1e6);
  return order;
}

std::string encode_end(int exit_code) {
  return fmt::format("{}{}\n", kEnd, exit_code);
}

std::optional<int> parse_end(std::string_view line, std::string_view& rest) {
  const std::size_t at = line.rfind(kEnd);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view digits = line.substr(at + kEnd.size());
  int code = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code);
  if (error != std::errc{} || end != digits.data() + digits.size() || code < 0 || code > 255)
    return std::nullopt;
  rest = line.substr(0, at);
  return code;
}

}  // namespace ballot
