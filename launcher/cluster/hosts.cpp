#include "launcher/cluster/hosts.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/file.h"

namespace ballot {
namespace {

constexpr std::string_view kBlanks = " \t\r\f\v";
constexpr std::size_t kLongestName = 253;  // of a host in DNS
constexpr std::size_t kLongestFile = 1 << 20;

// Letters, digits and what stands in addresses and in ssh's user@host. Nothing that a shell or an
// option parser would read: no name begins with '-'.
bool is_host_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && name[0] != '-' && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '.' || c == '_' || c == '@';
         });
}

std::optional<int> number_of_slots(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1 || value > kMostSlots)
    return std::nullopt;
  return value;
}

// What a message can show of bytes that may be anything.
std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += c >= ' ' && c <= '~' ? c : '?';
  return text.size() > 60 ? out + "..." : out;
}

void add(std::vector<Host>& hosts, std::string_view name, int slots, const std::string& where) {
  if (!is_host_name(name))
    throw ConfigError(
        "{}: \"{}\" is no host; expected a name or an IPv4 address, and after it "
        "slots=N or :N",
        where, shown(name));
  const auto known =
      std::find_if(hosts.begin(), hosts.end(), [&](const Host& host) { return host.name == name; });
  if (known == hosts.end()) {
    if (hosts.size() == kMostHosts) throw ConfigError("{}: more than {} hosts", where, kMostHosts);
    hosts.push_back({std::string(name), slots});
  } else if (known->slots + slots > kMostSlots) {
    throw ConfigError("{}: {} has {} slots; expected at most {}", where, name, known->slots + slots,
                      kMostSlots);
  } else {
    known->slots += slots;
  }
}

// "node1" or "node1:4".
void add_word(std::vector<Host>& hosts, std::string_view word, const std::string& where) {
  const std::size_t colon = word.find(':');
  if (colon == std::string_view::npos) return add(hosts, word, 1, where);
  const std::string_view count = word.substr(colon + 1);
  const std::optional<int> slots = number_of_slots(count);
  if (!slots)
    throw ConfigError("{}: \"{}\" slots; expected a number of 1 to {}", where, shown(count),
                      kMostSlots);
  add(hosts, word.substr(0, colon), *slots, where);
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (std::size_t at = 0; (at = line.find_first_not_of(kBlanks, at)) != std::string_view::npos;) {
    const std::size_t end = std::min(line.find_first_of(kBlanks, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  return words;
}

}  // namespace

std::vector<Host> parse_host_file(std::string_view bytes, const std::string& source) {
  std::vector<Host> hosts;
  int number = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', at), bytes.size());
    std::string_view line = bytes.substr(at, end - at);
    at = end + 1;
    ++number;
    line = line.substr(0, line.find('#'));
    const std::vector<std::string_view> words = words_of(line);
    if (words.empty()) continue;
    const std::string where = fmt::format("{}:{}", source, number);
    if (words.size() == 1) {
      add_word(hosts, words[0], where);
      continue;
    }
    constexpr std::string_view kSlots = "slots=";
    const std::optional<int> slots = words.size() == 2 && words[1].starts_with(kSlots)
                                         ? number_of_slots(words[1].substr(kSlots.size()))
                                         : std::nullopt;
    if (!slots)
      throw ConfigError("{}: \"{}\"; expected HOST, HOST:N or HOST slots=N with 1 to {} slots",
                        where, shown(line), kMostSlots);
    add(hosts, words[0], *slots, where);
  }
  if (hosts.empty()) throw ConfigError("{}: names no host", source);
  return hosts;
}

std::vector<Host> parse_host_list(std::string_view list, const std::string& source) {
  std::vector<Host> hosts;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    add_word(hosts, list.substr(at, end - at), source);
    at = end + 1;
  }
  return hosts;
}

std::vector<Host> read_hosts(const std::string& text) {
  if (std::error_code ignored; std::filesystem::is_regular_file(text, ignored)) {
    if (const auto size = std::filesystem::file_size(text); size > kLongestFile)
      throw ConfigError("--hosts {}: {} bytes; expected a list of hosts of at most {}", text, size,
                        kLongestFile);
    return parse_host_file(read_file(text), text);
  }
  if (text.find('/') != std::string::npos)
    throw ConfigError("--hosts {}: there is no such file", text);
  return parse_host_list(text, "--hosts " + shown(text));
}

int total_slots(const std::vector<Host>& hosts) {
  int sum = 0;
  for (const Host& host : hosts) sum += host.slots;
  return sum;
}

}  // namespace ballot
