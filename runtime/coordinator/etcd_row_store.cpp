#include "runtime/coordinator/etcd_row_store.h"

#include <charconv>

#include "core/error.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/etcd_client.h"
#include "runtime/coordinator/row_digest.h"

namespace ballot {
namespace {

// The value: one line "ballot-row SCHEMA REVISION DIGEST", for whoever looks with etcdctl, then the
// row's bytes.
constexpr const char* kSchema = "ballot-row 1 ";

std::string encode_value(const std::string& run, std::int64_t revision, const std::string& body) {
  return fmt::format("{}{} {}\n{}", kSchema, revision, digest_of_row(run, revision, body), body);
}

class EtcdStore final : public RowStore {
 public:
  explicit EtcdStore(std::shared_ptr<EtcdLeadership> leadership)
      : leadership_(std::move(leadership)),
        run_(leadership_->options().run),
        key_(etcd_key(run_, "row")),
        client_(leadership_->options().cluster, leadership_->options().tls,
                leadership_->options().call) {}

  Row load() override {
    known_.reset();
    const EtcdClient::Reading reading = client_.read(key_);
    if (!reading.value) {
      known_ = Known{0, 0};
      return {};
    }
    Row row = decode(reading.value->bytes);
    known_ = Known{row.revision, reading.value->mod_revision};
    return row;
  }

  WriteAnswer write(const Row& row) override {
    require(row.revision >= 0, "row revision {}", row.revision);
    const std::optional<std::int64_t> leader = leadership_->key_revision();
    if (!leader)
      return {Written::refused,
              fmt::format("{}: not written: this coordinator {}", name(), leadership_->standing())};
    try {
      if (!known_ || known_->revision != row.revision) load();
    } catch (const WorldError& error) {
      return {Written::refused, error.what()};
    }
    if (known_->revision != row.revision)
      return {Written::refused, fmt::format("{}: the row has revision {}, not {}", name(),
                                            known_->revision, row.revision)};
    EtcdClient::Answer answer = client_.transact(request_of(row, *leader));
    switch (answer.kind) {
      case EtcdClient::Answer::Kind::yes:
        known_ = Known{row.revision + 1, answer.response.header().revision()};
        return {Written::yes, ""};
      case EtcdClient::Answer::Kind::no:
        known_.reset();
        return {Written::refused, why_not(answer.response, row, *leader)};
      case EtcdClient::Answer::Kind::refused:
        return {Written::refused, answer.why};
      case EtcdClient::Answer::Kind::unclear:
        break;
    }
    known_.reset();
    return {Written::unclear, answer.why};
  }

  std::string name() const override { return client_.name() + key_; }

 private:
  struct Known {
    std::int64_t revision;      // the row's
    std::int64_t mod_revision;  // etcd's at which it was written; 0: never
  };

  etcdserverpb::TxnRequest request_of(const Row& row, std::int64_t leader) const {
    etcdserverpb::TxnRequest request;
    etcdserverpb::Compare& mine = *request.add_compare();
    mine.set_target(etcdserverpb::Compare::CREATE);
    mine.set_key(leadership_->key());
    mine.set_create_revision(leader);
    etcdserverpb::Compare& unchanged = *request.add_compare();
    unchanged.set_target(etcdserverpb::Compare::MOD);
    unchanged.set_key(key_);
    unchanged.set_mod_revision(known_->mod_revision);
    etcdserverpb::PutRequest& put = *request.add_success()->mutable_request_put();
    put.set_key(key_);
    put.set_value(encode_value(run_, row.revision + 1, encode(row)));
    request.add_failure()->mutable_request_range()->set_key(leadership_->key());
    return request;
  }

  // Which of the conditions did not hold; a leadership that has gone is told so.
  std::string why_not(const etcdserverpb::TxnResponse& response, const Row& row,
                      std::int64_t leader) {
    const auto& found = response.responses_size() == 1
                            ? response.responses(0).response_range()
                            : etcdserverpb::RangeResponse::default_instance();
    if (found.kvs_size() == 0 || found.kvs(0).create_revision() != leader) {
      leadership_->lost(leader);
      return fmt::format(
          "{}: not written: this coordinator leads no more, {}", name(),
          found.kvs_size() == 0 ? "and nobody does" : printable(found.kvs(0).value()) + " does");
    }
    return fmt::format("{}: the row has another revision than {}", name(), row.revision);
  }

  Row decode(const std::string& value) const {
    const std::size_t line = value.find('\n');
    const std::string head = value.substr(0, std::min<std::size_t>(line, 200));
    if (line == std::string::npos || !head.starts_with("ballot-row "))
      throw CorruptFile("{}: what is there is no coordinator's row: \"{}\"", name(),
                        printable(head));
    if (!head.starts_with(kSchema))
      throw ConfigError(
          "{}: \"{}\": this version of Ballot expects \"{}...\": use the version that wrote it",
          name(), printable(head), kSchema);
    std::int64_t revision = 0;
    const char* const begin = head.data() + std::string_view(kSchema).size();
    const auto number = std::from_chars(begin, head.data() + head.size(), revision);
    const std::string body = value.substr(line + 1);
    const std::string expected = fmt::format(" {}", digest_of_row(run_, revision, body));
    if (number.ec != std::errc() || revision < 1 ||
        std::string_view(number.ptr, head.data() + head.size()) != expected)
      throw CorruptFile("{}: damaged: \"{}\", expected a revision and digest{}", name(),
                        printable(head), expected);
    try {
      Row row = decode_row(std::as_bytes(std::span(body)));
      row.revision = revision;
      return row;
    } catch (const TransportError& error) {
      throw CorruptFile("{}: damaged: {}", name(), error.what());
    }
  }

  const std::shared_ptr<EtcdLeadership> leadership_;
  const std::string run_, key_;
  EtcdClient client_;
  std::optional<Known> known_;  // what was read or written last; none: to be read
};

}  // namespace

std::unique_ptr<RowStore> open_etcd_store(std::shared_ptr<EtcdLeadership> leadership) {
  return std::make_unique<EtcdStore>(std::move(leadership));
}

}  // namespace ballot
