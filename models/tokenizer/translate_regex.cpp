// Oniguruma's expressions in PCRE2's words: what differs between the two is spelled out.
//
// `^` and `$` stand at line ends in both (PCRE2_MULTILINE). White space is Unicode's White_Space,
// where PCRE2's \s takes U+180E too. Letters and numbers are those of Unicode 16, where Debian 12's
// PCRE2 knows Unicode 14: the later ones are added by hand.
#include <algorithm>
#include <array>
#include <cctype>

#include "models/tokenizer/pattern.h"

namespace ballot {
namespace {

constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNoSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kLetters =
    R"(\p{L}\x{1c89}\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}\x{11240}\x{11380}-\x{11389}\x{1138b}\x{1138e})"
    R"(\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10})"
    R"(\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d})"
    R"(\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d})"
    R"(\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNumbers =
    R"(\p{N}\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

// What may follow "(?".
constexpr std::array<std::string_view, 8> kGroups = {":", "=", "!", ">", "<=", "<!", "i:", "i)"};

class Translation {
 public:
  Translation(std::string_view expression, std::string& problem)
      : in_(expression), problem_(problem) {}

  std::string run() {
    while (i_ < in_.size() && problem_.empty()) {
      if (in_[i_] == '\\') {
        escape();
      } else if (in_class_) {
        class_character();
      } else {
        character();
      }
    }
    if (problem_.empty() && in_class_) refuse("a [ without its ]");
    return std::move(out_);
  }

 private:
  bool at(std::string_view text) const { return in_.substr(i_).starts_with(text); }
  void take(std::size_t count) {
    out_ += in_.substr(i_, count);
    i_ += count;
  }
  void refuse(std::string_view what) { problem_ = fmt::format("{} is not supported", what); }

  void character() {
    if (at("(?")) {
      for (const std::string_view group : kGroups)
        if (in_.substr(i_ + 2).starts_with(group)) return take(2 + group.size());
      return refuse(fmt::format("{} (supported: (?: (?= (?! (?> (?<= (?<! (?i: (?i) )",
                                shown(in_.substr(i_, 4))));
    }
    if (at("(*")) return refuse("(*");
    if (at("}+") || at("}?") || at("{,")) return refuse(in_.substr(i_, 2));
    if (at("[")) {
      if (at("[]") || at("[^]")) return refuse("a class that begins with ]");
      in_class_ = true;
      return take(at("[^") ? 2 : 1);
    }
    take(1);
  }

  void class_character() {
    if (at("[")) return refuse("a class in a class");
    if (at("&&")) return refuse("&& in a class");
    if (at("]")) in_class_ = false;
    take(1);
  }

  // A set of characters, here as a class of its own or as part of one.
  void set(std::string_view members) {
    out_ += in_class_ ? std::string(members) : fmt::format("[{}]", members);
  }
  void other_than(std::string_view members, std::string_view name) {
    if (in_class_) return refuse(fmt::format("{} in a class", name));
    out_ += fmt::format("[^{}]", members);
  }

  void escape() {
    if (i_ + 1 == in_.size()) return refuse("a \\ at the end");
    const char letter = in_[i_ + 1];
    if (letter == 'p' || letter == 'P') return property(letter == 'P');
    if (letter == 'x' || letter == 'u') return code_point();
    if (std::ispunct(static_cast<unsigned char>(letter)) != 0) return take(2);
    if (std::string_view("rntfae").find(letter) != std::string_view::npos) return take(2);
    i_ += 2;
    switch (letter) {
      case 's':
        return set(kSpace);
      case 'S':
        return set(kNoSpace);
      case 'd':
        return set(R"(\p{Nd})");
      case 'D':
        return other_than(R"(\p{Nd})", "\\D");
      case 'v':
        return set(R"(\x{b})");
      default:
        return refuse(fmt::format("{} (supported: \\s \\S \\d \\D \\p \\P \\x \\u and signs)",
                                  shown(in_.substr(i_ - 2, 2))));
    }
  }

  void property(bool negated) {
    const std::size_t end = in_.find('}', i_);
    if (i_ + 2 >= in_.size() || in_[i_ + 2] != '{' || end == std::string_view::npos)
      return refuse("\\p without {category}");
    std::string name(in_.substr(i_ + 3, end - i_ - 3));
    if (name.starts_with("^")) {
      negated = !negated;
      name.erase(0, 1);
    }
    static constexpr std::array<std::string_view, 37> kCategories = {
        "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",  "Nd", "Nl",
        "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S",  "Sc", "Sk", "Sm",
        "So", "Z",  "Zl", "Zp", "Zs", "C",  "Cc", "Cf", "Cn", "Co", "Cs"};
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end())
      return refuse(
          fmt::format("the property {} (supported: Unicode's general categories)", shown(name)));
    i_ = end + 1;
    const std::string members = name == "L"   ? std::string(kLetters)
                                : name == "N" ? std::string(kNumbers)
                                              : fmt::format("\\p{{{}}}", name);
    if (negated) return other_than(members, "\\P");
    set(members);
  }

  // \x{h...}, \xhh and \uhhhh, all as PCRE2's \x{h...}.
  void code_point() {
    const auto is_hex = [&](std::size_t j) {
      return j < in_.size() && std::isxdigit(static_cast<unsigned char>(in_[j])) != 0;
    };
    const bool braces = in_[i_ + 1] == 'x' && i_ + 2 < in_.size() && in_[i_ + 2] == '{';
    const std::size_t most = braces ? 6 : in_[i_ + 1] == 'x' ? 2 : 4;
    const std::size_t begin = i_ + (braces ? 3 : 2);
    std::size_t end = begin;
    while (end < begin + most && is_hex(end)) ++end;
    const bool whole =
        braces ? end > begin && end < in_.size() && in_[end] == '}' : end == begin + most;
    if (!whole) return refuse(shown(in_.substr(i_, 10)));
    out_ += fmt::format("\\x{{{}}}", in_.substr(begin, end - begin));
    i_ = end + (braces ? 1 : 0);
  }

  std::string_view in_;
  std::string& problem_;
  std::string out_;
  std::size_t i_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string translate_regex(std::string_view expression, std::string& problem) {
  return Translation(expression, problem).run();
}

}  // namespace ballot
