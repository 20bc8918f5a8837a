#include "launcher/cluster/slurm_allocation.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::size_t kLongestNumber = 9;  // digits, with leading zeros

class NodeList {
 public:
  NodeList(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  std::vector<std::string> read() {
    std::vector<std::string> all;
    while (true) {
      for (std::string& name : read_name()) all.push_back(std::move(name));
      if (all.size() > kMostHosts) fail(fmt::format("more than {} nodes", kMostHosts));
      if (at_ == text_.size()) return all;
      if (text_[at_] != ',') fail("expected a comma");
      ++at_;
    }
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw ConfigError("{} at byte {}: {}; expected a list such as node[1-3,7],gpu1", source_, at_,
                      what);
  }
  static bool is_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  }
  // "rack[1-2]n[1-2]": every part is put after every name so far.
  std::vector<std::string> read_name() {
    std::vector<std::string> names{""};
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != ',') {
      if (text_[at_] != '[') {
        if (!is_plain(text_[at_])) fail("a character that no node's name has");
        for (std::string& name : names) name += text_[at_];
        ++at_;
        continue;
      }
      const std::vector<std::string> numbers = read_numbers();
      if (names.size() * numbers.size() > kMostHosts)
        fail(fmt::format("more than {} nodes", kMostHosts));
      std::vector<std::string> longer;
      for (const std::string& name : names)
        for (const std::string& number : numbers) longer.push_back(name + number);
      names = std::move(longer);
    }
    if (at_ == begin || text_[begin] == '-') fail("a name that is empty or begins with '-'");
    return names;
  }
  std::vector<std::string> read_numbers() {
    std::vector<std::string> numbers;
    do {
      ++at_;  // '[' or ','
      const std::string first = read_digits();
      std::string last = first;
      if (at_ < text_.size() && text_[at_] == '-') {
        ++at_;
        last = read_digits();
      }
      const int low = std::stoi(first), high = std::stoi(last);
      if (high < low) fail("a range that goes down");
      if (static_cast<std::size_t>(high - low) >= kMostHosts - std::min(kMostHosts, numbers.size()))
        fail(fmt::format("more than {} nodes", kMostHosts));
      for (int number = low; number <= high; ++number)
        numbers.push_back(fmt::format("{:0{}}", number, first.size()));
    } while (at_ < text_.size() && text_[at_] == ',');
    if (at_ == text_.size() || text_[at_] != ']') fail("expected ]");
    ++at_;
    return numbers;
  }
  std::string read_digits() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == begin || at_ - begin > kLongestNumber) fail("expected a number");
    return std::string(text_.substr(begin, at_ - begin));
  }

  const std::string_view text_;
  const std::string& source_;
  std::size_t at_ = 0;
};

int read_count(std::string_view text, std::string_view whole, const std::string& source, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1 || value > most)
    throw ConfigError("{} = \"{}\": expected numbers of 1 to {} such as 2(x3),1", source,
                      whole.substr(0, 100), most);
  return value;
}

}  // namespace

std::vector<std::string> expand_node_list(std::string_view list, const std::string& source) {
  return NodeList(list, source).read();
}

std::vector<int> expand_tasks_per_node(std::string_view text, const std::string& source) {
  std::vector<int> counts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    std::string_view part = text.substr(at, end - at);
    at = end + 1;
    int times = 1;
    if (const std::size_t open = part.find("(x"); open != std::string_view::npos) {
      if (!part.ends_with(')'))
        throw ConfigError("{} = \"{}\": expected ) after (x", source, text.substr(0, 100));
      times = read_count(part.substr(open + 2, part.size() - open - 3), text, source,
                         static_cast<int>(kMostHosts));
      part = part.substr(0, open);
    }
    const int count = read_count(part, text, source, kMostSlots);
    if (counts.size() + static_cast<std::size_t>(times) > kMostHosts)
      throw ConfigError("{}: more than {} nodes", source, kMostHosts);
    counts.insert(counts.end(), static_cast<std::size_t>(times), count);
  }
  return counts;
}

std::vector<Host> read_allocation(const Lookup& environment) {
  const auto nodes = environment("SLURM_JOB_NODELIST");
  if (!nodes)
    throw ConfigError(
        "SLURM_JOB_NODELIST is not set: this process is in no Slurm allocation; expected to be "
        "started by sbatch or in salloc");
  std::vector<Host> hosts;
  for (std::string& name : expand_node_list(*nodes, "SLURM_JOB_NODELIST"))
    hosts.push_back({std::move(name), 1});
  if (const auto tasks = environment("SLURM_TASKS_PER_NODE")) {
    const std::vector<int> counts = expand_tasks_per_node(*tasks, "SLURM_TASKS_PER_NODE");
    if (counts.size() != hosts.size())
      throw ConfigError(
          "SLURM_TASKS_PER_NODE = \"{}\" is for {} nodes, SLURM_JOB_NODELIST = "
          "\"{}\" names {}",
          *tasks, counts.size(), *nodes, hosts.size());
    for (std::size_t n = 0; n < hosts.size(); ++n) hosts[n].slots = counts[n];
  }
  return hosts;
}

}  // namespace ballot
