#include "runtime/config_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

namespace ballot {
namespace {

const toml::node& as_node(const void* node) {
  return *static_cast<const toml::node*>(node);
}

std::string text_of(const toml::node& node) {
  std::ostringstream out;
  node.visit([&](const auto& typed) {
    if constexpr (toml::is_value<decltype(typed)>)
      out << toml::node_view<const toml::node>(&typed);
    else
      out << (typed.is_table() ? "a table" : "an array");
  });
  return out.str();
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << toml::value<std::string>(text);
  return out.str();
}

std::string show_double(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos)
    text += ".0";  // TOML: a number without a point is an integer
  return text;
}

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

struct Given {
  std::string key;
  const toml::node* node;
  std::string where;  // "run.toml:12" or "--set"
};

void flatten(const toml::table& table, const std::string& prefix, const std::string& path,
             std::vector<Given>& given) {
  for (const auto& [name, node] : table) {
    const std::string key =
        prefix.empty() ? std::string(name.str()) : prefix + "." + std::string(name.str());
    if (const toml::table* inner = node.as_table()) {
      flatten(*inner, key, path, given);
      continue;
    }
    given.push_back({key, &node, fmt::format("{}:{}", path, node.source().begin.line)});
  }
}

}  // namespace

void ConfigTable::add(const std::string& key, std::string& value, const std::string& help) {
  entries_.push_back({key, help,
                      [&value](const void* raw) -> std::string {
                        const auto text = as_node(raw).value_exact<std::string>();
                        if (!text) return "expected a string";
                        value = *text;
                        return "";
                      },
                      [&value] { return quoted(value); }});
}

void ConfigTable::add(const std::string& key, std::int64_t& value, const std::string& help,
                      std::int64_t least, std::int64_t most) {
  entries_.push_back({key, help,
                      [&value, least, most](const void* raw) -> std::string {
                        const auto number = as_node(raw).value_exact<std::int64_t>();
                        if (!number) return "expected a whole number";
                        if (*number < least || *number > most)
                          return most == INT64_MAX ? fmt::format("expected at least {}", least)
                                                   : fmt::format("expected {} to {}", least, most);
                        value = *number;
                        return "";
                      },
                      [&value] { return fmt::format("{}", value); }});
}

void ConfigTable::add(const std::string& key, double& value, const std::string& help, double least,
                      double most) {
  entries_.push_back({key, help,
                      [&value, least, most](const void* raw) -> std::string {
                        const toml::node& node = as_node(raw);
                        if (!node.is_number()) return "expected a number";
                        const double number = *node.value<double>();
                        if (!std::isfinite(number) || number < least || number > most)
                          return fmt::format("expected {} to {}", least, most);
                        value = number;
                        return "";
                      },
                      [&value] { return show_double(value); }});
}

void ConfigTable::add(const std::string& key, bool& value, const std::string& help) {
  entries_.push_back({key, help,
                      [&value](const void* raw) -> std::string {
                        const auto flag = as_node(raw).value_exact<bool>();
                        if (!flag) return "expected true or false";
                        value = *flag;
                        return "";
                      },
                      [&value] { return value ? "true" : "false"; }});
}

void ConfigTable::add(const std::string& key, std::vector<std::string>& value,
                      const std::string& help) {
  entries_.push_back({key, help,
                      [&value](const void* raw) -> std::string {
                        const toml::node& node = as_node(raw);
                        std::vector<std::string> texts;
                        if (const auto text = node.value_exact<std::string>()) {
                          texts.push_back(*text);
                        } else if (const toml::array* list = node.as_array()) {
                          for (const toml::node& item : *list)
                            if (const auto one = item.value_exact<std::string>())
                              texts.push_back(*one);
                          if (texts.size() != list->size()) return "expected a list of strings";
                        } else {
                          return "expected a list of strings";
                        }
                        value = std::move(texts);
                        return "";
                      },
                      [&value] {
                        std::vector<std::string> texts;
                        for (const std::string& text : value) texts.push_back(quoted(text));
                        return fmt::format("[{}]", fmt::join(texts, ", "));
                      }});
}

void ConfigTable::add_choice(const std::string& key, std::vector<std::string> choices,
                             const std::string& help, std::function<void(const std::string&)> apply,
                             std::function<std::string()> show) {
  const std::string listed = fmt::format("\"{}\"", fmt::join(choices, "\", \""));
  entries_.push_back({key, help + " (" + listed + ")",
                      [choices, listed, apply](const void* raw) -> std::string {
                        const auto text = as_node(raw).value_exact<std::string>();
                        if (!text ||
                            std::find(choices.begin(), choices.end(), *text) == choices.end())
                          return "expected one of " + listed;
                        apply(*text);
                        return "";
                      },
                      [show] { return quoted(show()); }});
}

const ConfigTable::Entry* ConfigTable::find(const std::string& key) const {
  for (const Entry& entry : entries_)
    if (entry.key == key) return &entry;
  return nullptr;
}

std::string ConfigTable::nearest(const std::string& key) const {
  const Entry* best = nullptr;
  std::size_t best_distance = 0;
  const auto last_part = [](const std::string& text) { return text.substr(text.rfind('.') + 1); };
  for (const Entry& entry : entries_) {
    // A right name in the wrong table is as near as a slip of the finger.
    const std::size_t distance = std::min(edit_distance(key, entry.key),
                                          edit_distance(last_part(key), last_part(entry.key)) + 2);
    if (best == nullptr || distance < best_distance) best = &entry, best_distance = distance;
  }
  return best == nullptr ? "" : best->key;
}

std::vector<std::string> ConfigTable::apply(std::string_view text, const std::string& path,
                                            const std::vector<std::string>& settings,
                                            std::vector<std::string>& problems) const {
  std::vector<std::string> keys;
  std::vector<Given> given;
  toml::table file;
  try {
    file = toml::parse(text, path);
    flatten(file, "", path, given);
  } catch (const toml::parse_error& failure) {
    problems.push_back(
        fmt::format("{}:{}: {}", path, failure.source().begin.line, failure.description()));
  }
  std::stable_sort(given.begin(), given.end(), [](const Given& a, const Given& b) {
    return a.node->source().begin.line < b.node->source().begin.line;
  });

  std::vector<toml::table> set_tables;
  set_tables.reserve(settings.size());
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      problems.push_back(fmt::format("--set {}: expected key=value", setting));
      continue;
    }
    const std::string key = setting.substr(0, equals), value = setting.substr(equals + 1);
    try {
      set_tables.push_back(toml::parse("value = " + value));
    } catch (const toml::parse_error&) {
      set_tables.push_back(toml::table{{"value", value}});  // a bare word is a string
    }
    given.push_back({key, set_tables.back().get("value"), "--set"});
  }

  // A rule brings its own defaults, so it is applied before the keys that change them.
  std::stable_partition(given.begin(), given.end(),
                        [](const Given& item) { return item.key.ends_with(".rule"); });
  for (const Given& item : given) {
    const Entry* entry = find(item.key);
    if (entry == nullptr) {
      problems.push_back(fmt::format("{}: unknown key {}; the nearest valid key is {}", item.where,
                                     item.key, nearest(item.key)));
      continue;
    }
    const std::string wrong = entry->set(item.node);
    if (!wrong.empty())
      problems.push_back(
          fmt::format("{}: {} = {}: {}", item.where, item.key, text_of(*item.node), wrong));
    keys.push_back(item.key);
  }
  return keys;
}

std::string ConfigTable::to_toml() const {
  std::string out, table;
  for (const Entry& entry : entries_) {
    const std::size_t dot = entry.key.rfind('.');
    const std::string of = entry.key.substr(0, dot);
    if (of != table) out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", table = of);
    out += fmt::format("{} = {}\n", entry.key.substr(dot + 1), entry.show());
  }
  return out;
}

std::string ConfigTable::reference() const {
  std::string out;
  for (const Entry& entry : entries_)
    out += fmt::format("{:<34} {:<14} {}\n", entry.key, entry.show(), entry.help);
  return out;
}

}  // namespace ballot
