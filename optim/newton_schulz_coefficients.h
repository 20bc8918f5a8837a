// The polynomials of Newton-Schulz: what each iteration does to a matrix's singular values,
// s <- a s + b s^3 + c s^5.
//
// keller         one quintic for every iteration (Jordan 2024): singular values end between 0.68
//                and 1.13 and never settle; five iterations lift a small one 485 times.
// polar_express  another one for each iteration, best for what is left to do (Amsel et al. 2025,
//                arXiv:2505.16932; the five of the modded-nanogpt records, made for values from
//                1e-3): between 0.85 and 1.15, a small one lifted 990 times.
#pragma once

#include <algorithm>
#include <array>

namespace ballot {

enum class Coefficients { keller, polar_express };

struct Quintic {
  float a, b, c;
};

// Of iteration `step`, from 0. Beyond the last of a set the last is used again.
constexpr Quintic quintic_of(Coefficients set, int step) {
  constexpr std::array kPolarExpress = {
      Quintic{8.156554524902461f, -22.48329292557795f, 15.878769915207462f},
      Quintic{4.042929935166739f, -2.808917465908714f, 0.5000178451051316f},
      Quintic{3.8916678022926607f, -2.772484153217685f, 0.5060648178503393f},
      Quintic{3.285753657755655f, -2.3681294933425376f, 0.46449024233003106f},
      Quintic{2.3465413258596377f, -1.7097828382687081f, 0.42323551169305323f}};
  if (set == Coefficients::keller) return {3.4445f, -4.7750f, 2.0315f};
  return kPolarExpress[static_cast<std::size_t>(
      std::min(step, static_cast<int>(kPolarExpress.size()) - 1))];
}

// X is divided by factor ||G||_F + epsilon before the first iteration.
struct Normalization {
  double factor, epsilon;
};
constexpr Normalization normalization_of(Coefficients set) {
  return set == Coefficients::keller ? Normalization{1.0, 1e-7} : Normalization{1.02, 1e-6};
}

}  // namespace ballot
