#include "launcher/data_flags.h"

#include <CLI/CLI.hpp>
#include <map>

#include "models/chat_template.h"  // chat_template_names

namespace ballot {

void add_data_flags(CLI::App& command, const char* format_flag, TokenSource& source,
                    DocumentRules& rules) {
  command.add_option(format_flag, source.format, "of the data")
      ->check(CLI::IsMember({"auto", "text", "jsonl", "bin", "megatron"}))
      ->capture_default_str();
  command.add_option("--template", source.row_template,
                     "jsonl: text of a row with {fields}; {|}: here the completion begins");
  command.add_option("--first-row", source.first_row, "jsonl: first row");
  command.add_option("--last-row", source.last_row, "jsonl: the row after the last");
  const std::map<std::string, TrainOn> train_on = {
      {"auto", TrainOn::automatic}, {"all", TrainOn::all}, {"completion", TrainOn::completion}};
  command
      .add_option("--train-on", rules.train_on,
                  "completion: not on prompts and others' messages; auto: so where rows have them")
      ->transform(CLI::CheckedTransformer(train_on))
      ->default_str("auto");
  std::vector<std::string> templates = chat_template_names();
  templates.insert(templates.begin(), "auto");
  command
      .add_option("--chat-template", rules.chat_template,
                  "of rows with messages; auto: the model's own, by its text")
      ->check(CLI::IsMember(templates))
      ->capture_default_str();
}

void add_window_flag(CLI::App& command, DocumentRules& rules) {
  const std::map<std::string, Windows> windows = {{"auto", Windows::automatic},
                                                  {"stream", Windows::stream},
                                                  {"packed", Windows::packed},
                                                  {"single", Windows::single}};
  command
      .add_option(
          "--windows", rules.windows,
          "stream: across documents; packed: whole ones that do not see each other; single: "
          "one a window; auto: packed where something is not trained on, else stream")
      ->transform(CLI::CheckedTransformer(windows))
      ->default_str("auto");
}

}  // namespace ballot
