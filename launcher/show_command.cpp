#include "launcher/show_command.h"

#include <string>
#include <vector>

#include "launcher/shell_words.h"

namespace ballot {

std::string shown_start(const StartCommand& start) {
  std::string shown = shell_line(start.words) + "\n";
  if (!start.by_agent()) return shown;
  const AgentOrder order = decode_order(start.input);
  std::vector<std::string> words = {"env"};
  for (const auto& [name, value] : order.environment)
    if (name != "BALLOT_TOKEN" && name != "OMP_NUM_THREADS") words.push_back(name + "=" + value);
  words.insert(words.end(), order.command.begin(), order.command.end());
  return shown + "    " + shell_line(words) + "\n";
}

}  // namespace ballot
