// YAML that is read again gives the tree that was written, whatever the strings.
#include "launcher/kubernetes/yaml_text.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <rapidcheck/gtest.h>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "launcher/kubernetes/kubernetes_rules.h"

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

// As a reader sees it: quoted scalars are strings ("!"), plain ones what YAML 1.1 makes of them.
Json read(const YAML::Node& node) {
  if (node.IsMap()) {
    Json map = Json::object();
    for (const auto& pair : node) {
      const Json key = read(pair.first);
      if (!key.is_string()) throw std::runtime_error("a key that is no string: " + key.dump());
      map[key.get<std::string>()] = read(pair.second);
    }
    return map;
  }
  if (node.IsSequence()) {
    Json list = Json::array();
    for (const auto& one : node) list.push_back(read(one));
    return list;
  }
  if (node.IsNull()) return nullptr;
  if (node.Tag() == "!") return node.Scalar();
  bool truth = false;
  std::int64_t number = 0;
  double real = 0;
  if (YAML::convert<bool>::decode(node, truth)) return truth;
  if (YAML::convert<std::int64_t>::decode(node, number)) return number;
  if (YAML::convert<double>::decode(node, real)) return real;
  return node.Scalar();
}

Json again(const Json& tree) {
  return read(YAML::Load(to_yaml(tree)));
}

std::vector<std::string> misleading_texts() {
  return {"",
          "yes",
          "No",
          "on",
          "OFF",
          "y",
          "n",
          "true",
          "False",
          "null",
          "~",
          "1e3",
          "0x10",
          "0o17",
          "017",
          "1_000",
          "12:30",
          "190:20:30",
          "1.5",
          ".5",
          ".inf",
          "-.INF",
          ".nan",
          "+1",
          "-1",
          "2026-11-23",
          "=",
          "<<",
          "- a",
          "a: b",
          "a #b",
          "#a",
          "a:",
          ":a",
          "?",
          "-",
          "--",
          "---",
          "...",
          "!x",
          "&a",
          "*a",
          "%a",
          "@a",
          "`a",
          "'a'",
          "\"a\"",
          "[a]",
          "{a: 1}",
          "a, b",
          "| x",
          "> x",
          " a",
          "a ",
          "a\n",
          "\na",
          "a\nb\n",
          "a\nb",
          "a\n\nb\n",
          "a\n  \nb\n",
          " a\nb\n",
          "\ta\nb\n",
          "a\tb",
          "a\\nb",
          "a\r\nb\n",
          "a\n\n",
          "\n",
          "\x01",
          "\x7f",
          "\xc2\x85",
          "\xe2\x80\xa8",
          "\xef\xbb\xbf",
          "ä\nö\n",
          "\xf0\x9f\x97\xb3",
          "a: |\n  b\n",
          "--- \nx\n",
          "...\nx\n",
          "$(POD_IP):29501",
          "--set"};
}

TEST(YamlText, StringsThatYamlWouldMisreadSurvive) {
  for (const std::string& text : misleading_texts()) {
    EXPECT_EQ(again(Json{{"key", text}})["key"], text) << Json(text).dump();
    EXPECT_EQ(again(Json::array({text}))[0], text) << Json(text).dump();
    EXPECT_TRUE(again(Json{{text, 1}}).contains(text)) << Json(text).dump();
  }
}

// Files that other readers of YAML are asked about (validate): strings.yaml is strings.json.
TEST(YamlText, OtherReadersAreGivenTheSameStrings) {
  const Json tree = {{"texts", misleading_texts()}};
  const std::string folder = BALLOT_GOLDEN;
  if (std::getenv("BALLOT_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(folder + "/strings.yaml") << to_yaml(tree);
    std::ofstream(folder + "/strings.json") << tree.dump(1, ' ', true) << "\n";
  }
  std::ifstream json(folder + "/strings.json"), yaml(folder + "/strings.yaml");
  const std::string text{std::istreambuf_iterator<char>(yaml), {}};
  EXPECT_EQ(text, to_yaml(tree));
  EXPECT_EQ(Json::parse(json), tree);
}

TEST(YamlText, SeveralLinesStayReadable) {
  EXPECT_EQ(to_yaml({{"run.toml", "[a]\nb = 1\n"}}), "run.toml: |\n  [a]\n  b = 1\n");
}

TEST(YamlText, BytesThatAreNoTextAreRefused) {
  EXPECT_THROW(to_yaml({{"a", "\xff"}}), ConfigError);
  EXPECT_THROW(to_yaml({{"\xc3", 1}}), ConfigError);
}

rc::Gen<std::string> text() {
  // Marks of YAML more often than chance would have them.
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::oneOf(
                          rc::gen::map(rc::gen::inRange(0, 0x80),
                                       [](int c) { return std::string(1, static_cast<char>(c)); }),
                          rc::gen::elementOf(std::vector<std::string>{":",
                                                                      " ",
                                                                      "\n",
                                                                      "\t",
                                                                      "-",
                                                                      "#",
                                                                      "'",
                                                                      "\"",
                                                                      "|",
                                                                      ">",
                                                                      "&",
                                                                      "*",
                                                                      "!",
                                                                      "%",
                                                                      "{",
                                                                      "}",
                                                                      "[",
                                                                      "]",
                                                                      ",",
                                                                      "?",
                                                                      "yes",
                                                                      "0x",
                                                                      "1",
                                                                      "e",
                                                                      ".",
                                                                      "~",
                                                                      "null",
                                                                      "\\",
                                                                      "\r",
                                                                      "\xc2\x85",
                                                                      "\xe2\x80\xa9",
                                                                      "\xef\xbb\xbf",
                                                                      "ß",
                                                                      "\xf0\x9f\x97\xb3"}))),
                      [](const std::vector<std::string>& parts) {
                        std::string all;
                        for (const std::string& part : parts) all += part;
                        return all;
                      });
}

RC_GTEST_PROP(YamlText, IsReadAsTheTreeThatWasWritten, ()) {
  Json tree = Json::object();
  for (int i = 0, entries = *rc::gen::inRange(0, 6); i < entries; ++i) {
    const std::string key = *text();
    switch (*rc::gen::inRange(0, 6)) {
      case 0:
        tree[key] = *rc::gen::arbitrary<std::int64_t>();
        break;
      case 1:
        tree[key] = *rc::gen::arbitrary<bool>();
        break;
      case 2:
        tree[key] = Json::array({*text(), Json::object(), Json{{*text(), *text()}}});
        break;
      case 3:
        tree[key] = {{*text(), Json::array()}, {"x" + *text(), Json::array({1, *text()})}};
        break;
      default:
        tree[key] = *text();
    }
  }
  RC_ASSERT(again(tree) == tree);
}

RC_GTEST_PROP(KubernetesRules, ALabelIsTakenWhereTheRuleSaysSo, ()) {
  const std::string name =
      *rc::gen::container<std::string>(rc::gen::elementOf(std::string("abz019-_.A\n\xc3 ")));
  bool good = !name.empty() && name.size() <= 63;
  for (const char c : name)
    good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
  if (good) good = name[0] >= 'a' && name[0] <= 'z' && name.back() != '-';
  bool taken = true;
  try {
    require_dns_label("name", name);
  } catch (const ConfigError&) {
    taken = false;
  }
  RC_ASSERT(taken == good);
}

TEST(KubernetesRules, QuantitiesAreNumbers) {
  for (const auto& [text, value] :
       std::vector<std::pair<std::string, double>>{{"1", 1},
                                                   {"500m", 0.5},
                                                   {"1.5", 1.5},
                                                   {".5", 0.5},
                                                   {"2k", 2e3},
                                                   {"8Gi", 8589934592.0},
                                                   {"64Mi", 67108864},
                                                   {"1e3", 1000},
                                                   {"1E3", 1000},
                                                   {"2e-1", 0.2},
                                                   {"3T", 3e12},
                                                   {"1E", 1e18},
                                                   {"1Ei", 1152921504606846976.0},
                                                   {"1Ki", 1024},
                                                   {"100u", 1e-4}})
    EXPECT_DOUBLE_EQ(parse_quantity("x", text), value) << text;
  for (const char* text :
       {"",    "0",      "-1", "+",   "1 Gi", "1GB",   "1gi", "Gi",  "1.2.3", "1e",
        "1e+", "1e1000", "1K", "1ki", "0x10", "1_000", "inf", "nan", "1Gi ",  "."})
    EXPECT_THROW(parse_quantity("x", text), ConfigError) << text;
}

}  // namespace
}  // namespace ballot
