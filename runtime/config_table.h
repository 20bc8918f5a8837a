// The keys of a TOML file: each with its type, its help and where its value goes. Reading reports
// every mistake at once.
//
// One table serves parsing, `--set`, the resolved run.toml and the reference in --help, so that
// they cannot drift apart.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

class ConfigTable {
 public:
  // Values are written where these point when the file is applied; `help` ends in the unit where
  // there is one.
  void add(const std::string& key, std::string& value, const std::string& help);
  void add(const std::string& key, std::int64_t& value, const std::string& help, std::int64_t least,
           std::int64_t most = INT64_MAX);
  void add(const std::string& key, double& value, const std::string& help, double least,
           double most);
  void add(const std::string& key, bool& value, const std::string& help);
  // A list of strings; one string is a list of one.
  void add(const std::string& key, std::vector<std::string>& value, const std::string& help);
  // One of `choices`; `apply` is called with the one chosen, `show` names the present one.
  void add_choice(const std::string& key, std::vector<std::string> choices, const std::string& help,
                  std::function<void(const std::string&)> apply, std::function<std::string()> show);

  // Applies `text` (a TOML file named `path`), then each "key=value". Every unknown key, wrong type
  // and value out of range is appended to `problems`, with file and line and the nearest valid key.
  // Returns the keys that were given.
  std::vector<std::string> apply(std::string_view text, const std::string& path,
                                 const std::vector<std::string>& settings,
                                 std::vector<std::string>& problems) const;

  std::string to_toml() const;    // every key with its present value
  std::string reference() const;  // key, present value, help: one line each

 private:
  struct Entry {
    std::string key, help;
    std::function<std::string(const void* toml_node)>
        set;                            // a toml::node; returns what was wrong, or ""
    std::function<std::string()> show;  // as a TOML value
  };
  const Entry* find(const std::string& key) const;
  std::string nearest(const std::string& key) const;
  std::vector<Entry> entries_;
};

}  // namespace ballot
