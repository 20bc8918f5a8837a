#include "runtime/coordinator/refusals.h"

#include "core/log.h"
#include "runtime/coordinator/convert.h"

namespace ballot {

const char* to_string(Refusal refusal) {
  static constexpr const char* kNames[kRefusals] = {"token", "tls",    "malformed", "too_large",
                                                    "join",  "fenced", "ahead",     "too_many"};
  return kNames[static_cast<std::size_t>(refusal)];
}

void Refusals::add(Refusal refusal, const std::string& who, const std::string& why) {
  int line = 0;
  {
    const std::lock_guard lock(mutex_);
    Kind& kind = kinds_[static_cast<std::size_t>(refusal)];
    ++kind.count;
    const TimePoint now = clock_.now();
    if (kind.lines == 0 || now - kind.period >= kPeriod) {
      kind.period = now;
      kind.lines = 0;
    }
    line = ++kind.lines;
  }
  if (line > kLines) return;
  log_warning("refused ({}): {}: {}{}", to_string(refusal), printable(who), printable(why, 1000),
              line == kLines ? "; more of this kind are only counted for a while" : "");
}

std::map<std::string, std::int64_t> Refusals::counts() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::int64_t> counts;
  for (std::size_t i = 0; i < kRefusals; ++i)
    if (kinds_[i].count > 0) counts[to_string(static_cast<Refusal>(i))] = kinds_[i].count;
  return counts;
}

}  // namespace ballot
