// Every rank's numbers on every rank: what a benchmark prints is of all ranks, not of rank 0.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

// Collective; every rank gives equally many. [rank][i].
std::vector<std::vector<double>> gather_numbers(Transport& transport, std::span<const double> mine,
                                                Deadline deadline);

// Collective: the largest of all ranks' values.
double largest(Transport& transport, double mine, Deadline deadline);

// Collective: every rank's text, of any length.
std::vector<std::string> gather_texts(Transport& transport, const std::string& mine,
                                      Deadline deadline);

// Of a copy; `share` in [0, 1]. 0.5: the median (the lower of two). 0 for no values.
double quantile(std::vector<double> values, double share);

}  // namespace ballot
