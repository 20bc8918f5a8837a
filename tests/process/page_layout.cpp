#include "tests/process/page_layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace ballot {
namespace {

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string from_base64(const std::string& text) {
  std::string bytes;
  unsigned bits = 0, count = 0;
  for (const char c : text) {
    const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const std::size_t digit = digits.find(c);
    if (digit == std::string::npos) break;
    bits = bits << 6 | static_cast<unsigned>(digit);
    if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 0xff);
  }
  return bytes;
}

// As a JavaScript string within a script element.
std::string quoted(const std::string& text) {
  std::string json = nlohmann::json(text).dump();
  for (std::size_t at = 0; (at = json.find("</", at)) != std::string::npos; at += 3)
    json.replace(at, 2, "<\\/");
  for (std::size_t at = 0; (at = json.find("<!--", at)) != std::string::npos; at += 4)
    json.replace(at, 4, "\\u003c!--");
  return json;
}

}  // namespace

PageLayout lay_out(const std::string& html, const std::vector<int>& widths, bool dark,
                   const std::string& folder) {
  const std::string harness = folder + "/harness.html", answer = folder + "/answer.html",
                    said = folder + "/chromium.log", profile = folder + "/profile";
  std::ofstream(harness, std::ios::binary)
      << "<!DOCTYPE html><meta charset=\"utf-8\"><body><script>" << read_whole(BALLOT_PAGE_LAYOUT)
      << fmt::format("lookAt({}, [{}]);</script>", quoted(html), fmt::join(widths, ","));
  // Its own sandbox cannot be had as root, in a container; the page is ours.
  const std::string command = fmt::format(
      "timeout -k 5 120 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
      "--no-first-run --user-data-dir='{}' --blink-settings=preferredColorScheme={} "
      "--timeout=100000 --dump-dom 'file://{}' >'{}' 2>'{}'",
      profile, dark ? 0 : 1, harness, answer, said);
  const int status = std::system(command.c_str());
  std::filesystem::remove_all(profile);
  PageLayout layout;
  const std::string dom = read_whole(answer), begin = "<pre id=\"faults\">";
  const std::size_t at = dom.find(begin);
  if (status != 0 || at == std::string::npos) {
    layout.trouble = fmt::format("chromium (deploy/packages-test) ended with {}: {}", status,
                                 read_whole(said).substr(0, 2000));
    return layout;
  }
  const auto result = nlohmann::json::parse(from_base64(dom.substr(at + begin.size())));
  layout.faults = result.at("faults").get<std::vector<std::string>>();
  layout.texts = result.at("texts").get<int>();
  layout.dark = result.at("dark").get<bool>();
  return layout;
}

}  // namespace ballot
