// A row in memory, as bytes: what a store gives back has been through the same conversion as a
// real one's.
#include <fmt/format.h>

#include <mutex>

#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/row_store.h"

namespace ballot {

class MemoryRow {
 public:
  Row load() {
    const std::lock_guard lock(mutex_);
    Row row = bytes_.empty() ? Row{} : decode_row(std::as_bytes(std::span(bytes_)));
    row.revision = revision_;
    return row;
  }
  WriteAnswer write(const Row& row) {
    const std::string bytes = encode(row);
    const std::lock_guard lock(mutex_);
    if (row.revision != revision_)
      return {Written::refused,
              fmt::format("the row has revision {}, not {}", revision_, row.revision)};
    bytes_ = bytes;
    ++revision_;
    return {Written::yes, ""};
  }

 private:
  std::mutex mutex_;
  std::string bytes_;
  std::int64_t revision_ = 0;
};

namespace {

class MemoryStore final : public RowStore {
 public:
  explicit MemoryStore(std::shared_ptr<MemoryRow> row) : row_(std::move(row)) {}
  Row load() override { return row_->load(); }
  WriteAnswer write(const Row& row) override { return row_->write(row); }
  std::string name() const override { return "a row in memory"; }

 private:
  std::shared_ptr<MemoryRow> row_;
};

}  // namespace

std::shared_ptr<MemoryRow> make_memory_row() {
  return std::make_shared<MemoryRow>();
}

std::unique_ptr<RowStore> open_memory_store(std::shared_ptr<MemoryRow> row) {
  return std::make_unique<MemoryStore>(std::move(row));
}

}  // namespace ballot
