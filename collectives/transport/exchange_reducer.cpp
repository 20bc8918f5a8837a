#include "collectives/transport/exchange_reducer.h"

#include "core/error.h"

namespace ballot {
namespace {

std::uint32_t add(std::uint32_t a, std::uint32_t b) {
  return a + b;
}
float add(float a, float b) {
  return a + b;
}
bfloat16 add(bfloat16 a, bfloat16 b) {
  return to_bfloat16(to_float(a) + to_float(b));
}

template <class T>
class SumTransfer final : public Transfer {
 public:
  SumTransfer(Transport& transport, Purpose purpose, std::span<T> values)
      : rank_(static_cast<std::size_t>(transport.rank())),
        ranks_(static_cast<std::size_t>(transport.size())),
        values_(values) {
    const std::span<T> mine = slice(rank_);
    others_.resize(mine.size() * ranks_);
    std::vector<SendParts> to(ranks_), copies(ranks_);
    std::vector<ReceiveParts> from(ranks_), sums(ranks_);
    for (std::size_t r = 0; r < ranks_; ++r) {
      to[r] = {std::as_bytes(slice(r))};
      from[r] = {std::as_writable_bytes(other(r))};
      copies[r] = {std::as_bytes(mine)};
      sums[r] = {std::as_writable_bytes(slice(r))};
    }
    exchange_ = transport.open_exchange(purpose, to, from);
    gather_ = transport.open_exchange(purpose, copies, sums);
  }
  void start() override {
    require(stage_ == Stage::over, "a sum is started while it is under way");
    exchange_->start();
    stage_ = Stage::exchange;
  }
  bool done() override {
    if (stage_ == Stage::exchange && exchange_->done()) sum();
    if (stage_ == Stage::gather && gather_->done()) stage_ = Stage::over;
    return stage_ == Stage::over;
  }
  void wait(Deadline deadline) override {
    if (stage_ == Stage::exchange) {
      exchange_->wait(deadline);
      sum();
    }
    if (stage_ == Stage::gather) gather_->wait(deadline);
    stage_ = Stage::over;
  }
  const std::vector<bool>& arrived() override {
    done();
    return stage_ == Stage::exchange ? exchange_->arrived() : gather_->arrived();
  }

 private:
  enum class Stage { exchange, gather, over };
  std::span<T> slice(std::size_t r) const {
    const std::size_t begin = values_.size() * r / ranks_, end = values_.size() * (r + 1) / ranks_;
    return values_.subspan(begin, end - begin);
  }
  std::span<T> other(std::size_t r) {
    const std::size_t count = slice(rank_).size();
    return std::span<T>(others_).subspan(r * count, count);
  }
  void sum() {
    const std::span<T> mine = slice(rank_);
    std::copy(mine.begin(), mine.end(), other(rank_).begin());
    for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = others_[i];
    for (std::size_t r = 1; r < ranks_; ++r) {
      const std::span<T> theirs = other(r);
      for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = add(mine[i], theirs[i]);
    }
    gather_->start();
    stage_ = Stage::gather;
  }

  std::size_t rank_, ranks_;
  std::span<T> values_;
  std::vector<T> others_;
  std::unique_ptr<Transfer> exchange_, gather_;
  Stage stage_ = Stage::over;
};

}  // namespace

std::unique_ptr<Transfer> ExchangeReducer::open_sum(Purpose purpose,
                                                    std::span<std::uint32_t> values) {
  return std::make_unique<SumTransfer<std::uint32_t>>(transport_, purpose, values);
}
std::unique_ptr<Transfer> ExchangeReducer::open_sum(Purpose purpose, std::span<float> values) {
  return std::make_unique<SumTransfer<float>>(transport_, purpose, values);
}
std::unique_ptr<Transfer> ExchangeReducer::open_sum(Purpose purpose, std::span<bfloat16> values) {
  return std::make_unique<SumTransfer<bfloat16>>(transport_, purpose, values);
}

}  // namespace ballot
