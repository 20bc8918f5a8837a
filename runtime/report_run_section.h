// What a report shows of one run alone: its events, stages, agreement, ties and faults.
#pragma once

#include <cstddef>
#include <string>

#include "runtime/report_data.h"
#include "runtime/report_figures.h"  // StepValue

namespace ballot {

std::string run_section(const RunRecord& run);

// A titled part of the page; `body` is HTML.
std::string card(const std::string& title, const std::string& body, bool wide = false);

// By step; a value that is not finite is a gap.
std::vector<Point> points_of(const RunRecord& run, const StepValue& y);
bool any(const std::vector<Point>& points);

}  // namespace ballot
