#include "runtime/evaluation.h"

#include <algorithm>

#include "runtime/gather_values.h"

namespace ballot {
namespace {

Loss evaluate_share(Model& model, const EvaluationWindows& windows, std::int64_t sequences_at_once,
                    int share, int shares) {
  Loss total;
  TokenBatch batch;
  const std::int64_t batches = (windows.count() + sequences_at_once - 1) / sequences_at_once;
  for (std::int64_t i = share; i < batches; i += shares) {
    const std::int64_t first = i * sequences_at_once;
    windows.fill(first, std::min(sequences_at_once, windows.count() - first), batch);
    const Loss loss = model.evaluate(batch);
    total.sum += loss.sum;
    total.tokens += loss.tokens;
  }
  return total;
}

}  // namespace

Loss evaluate(Model& model, const EvaluationWindows& windows, std::int64_t sequences_at_once) {
  return evaluate_share(model, windows, sequences_at_once, 0, 1);
}

Loss evaluate(Model& model, const EvaluationWindows& windows, std::int64_t sequences_at_once,
              Transport& transport, Duration patience) {
  const Loss mine =
      evaluate_share(model, windows, sequences_at_once, transport.rank(), transport.size());
  Loss total;
  for (const Loss& loss : gather_values(mine, transport, Deadline::in(patience))) {
    total.sum += loss.sum;
    total.tokens += loss.tokens;
  }
  return total;
}

}  // namespace ballot
