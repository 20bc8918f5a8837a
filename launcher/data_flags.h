// The flags by which a command is told how a file's texts become tokens: those of [data].
#pragma once

#include "runtime/token_source.h"

namespace CLI {
class App;
}

namespace ballot {

// `format_flag` (--format, say), --template, --first-row, --last-row, --train-on, --chat-template.
void add_data_flags(CLI::App& command, const char* format_flag, TokenSource& source,
                    DocumentRules& rules);
// --windows.
void add_window_flag(CLI::App& command, DocumentRules& rules);

}  // namespace ballot
