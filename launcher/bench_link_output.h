// How a measured link is written: megabits for people, bytes per second in JSON lines.
#pragma once

#include <string>

#include "launcher/link_probe.h"

namespace ballot {

std::string rate_text(double bytes_per_second);  // "955.4" Mbit/s; "-" where nothing was measured
void print_link_lines(const Transport& transport, const LinkReport& report);

}  // namespace ballot
