// The row in one SQLite file.
//
// synchronous = EXTRA with a rollback journal, not a write-ahead log: a commit that has returned
// survives a power cut (FULL syncs the file but not the folder in which the journal is deleted, and
// a journal that comes back undoes the commit), the row is one file whenever nobody writes, and no
// shared memory is needed, which network file systems do not give. It costs a few fsyncs a write;
// the row is written at most once a heartbeat.
#include <sqlite3.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/row_digest.h"
#include "runtime/coordinator/row_store.h"

namespace ballot {
namespace {

constexpr std::int64_t kSchema = 1;                // user_version
constexpr std::int64_t kApplication = 0x42616c74;  // application_id: "Balt"
constexpr std::uintmax_t kHeaderBytes = 100;
constexpr int kBusyMilliseconds = 3000;  // for another process that writes

struct Close {
  void operator()(sqlite3* database) const { sqlite3_close(database); }
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Database = std::unique_ptr<sqlite3, Close>;

// Which of our errors a result of SQLite's is.
[[noreturn]] void throw_failure(const std::string& path, const char* doing, int code,
                                const std::string& text) {
  const int primary = code & 0xff;
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB || primary == SQLITE_FORMAT)
    throw CorruptFile("{}: cannot {}: {}; expected the SQLite file of a coordinator", path, doing,
                      text);
  throw FileError("{}: cannot {}: {}", path, doing, text);
}

class Connection {
 public:
  explicit Connection(const std::string& path) : path_(path) {
    sqlite3* database = nullptr;
    const int code =
        sqlite3_open_v2(path.c_str(), &database,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
    database_.reset(database);
    if (code != SQLITE_OK) fail("open it", code);
    sqlite3_extended_result_codes(database, 1);
    sqlite3_busy_timeout(database, kBusyMilliseconds);
    run("PRAGMA trusted_schema = OFF");
    if (text_of("PRAGMA journal_mode = DELETE") != "delete")
      throw FileError("{}: SQLite keeps journal_mode = {}", path_, text_of("PRAGMA journal_mode"));
    run("PRAGMA synchronous = EXTRA");
  }

  class Statement {
   public:
    Statement(Connection& connection, const char* sql) : connection_(connection), sql_(sql) {
      sqlite3_stmt* statement = nullptr;
      const int code = sqlite3_prepare_v2(connection.database_.get(), sql, -1, &statement, nullptr);
      statement_.reset(statement);
      if (code != SQLITE_OK) connection.fail(sql, code);
    }
    Statement& bind(int at, std::int64_t value) {
      sqlite3_bind_int64(statement_.get(), at, value);
      return *this;
    }
    Statement& bind_text(int at, const std::string& value) {
      sqlite3_bind_text64(statement_.get(), at, value.data(), value.size(), SQLITE_TRANSIENT,
                          SQLITE_UTF8);
      return *this;
    }
    Statement& bind_bytes(int at, const std::string& value) {
      sqlite3_bind_blob64(statement_.get(), at, value.data(), value.size(), SQLITE_TRANSIENT);
      return *this;
    }
    int try_step() { return sqlite3_step(statement_.get()); }
    bool step() {  // whether there is a row
      const int code = try_step();
      if (code != SQLITE_ROW && code != SQLITE_DONE) connection_.fail(sql_, code);
      return code == SQLITE_ROW;
    }
    std::int64_t number(int column) const { return sqlite3_column_int64(statement_.get(), column); }
    std::string bytes(int column) const {
      const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_.get(), column));
      return {data == nullptr ? "" : data,
              static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
    }

   private:
    Connection& connection_;
    const char* sql_;
    std::unique_ptr<sqlite3_stmt, Close> statement_;
  };

  void run(const char* sql) {
    Statement statement(*this, sql);
    while (statement.step()) {
    }
  }
  int try_run(const char* sql) {
    sqlite3_stmt* statement = nullptr;
    const int code = sqlite3_prepare_v2(database_.get(), sql, -1, &statement, nullptr);
    const std::unique_ptr<sqlite3_stmt, Close> owner(statement);
    return code != SQLITE_OK ? code : sqlite3_step(statement);
  }
  std::int64_t number_of(const char* sql) {
    Statement statement(*this, sql);
    statement.step();
    return statement.number(0);
  }
  std::string text_of(const char* sql) {
    Statement statement(*this, sql);
    statement.step();
    return statement.bytes(0);
  }
  bool in_transaction() const { return sqlite3_get_autocommit(database_.get()) == 0; }
  std::int64_t changes() const { return sqlite3_changes(database_.get()); }
  std::string error() const { return sqlite3_errmsg(database_.get()); }
  [[noreturn]] void fail(const char* doing, int code) const {
    throw_failure(path_, doing, code,
                  database_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(database_.get()));
  }

 private:
  const std::string path_;
  Database database_;
};

class SqliteStore final : public RowStore {
 public:
  SqliteStore(std::string path, std::string run) : path_(std::move(path)), run_(std::move(run)) {
    load();
  }

  Row load() override {
    try {
      if (connection_ == nullptr) open();
      return read();
    } catch (...) {
      connection_.reset();
      throw;
    }
  }

  WriteAnswer write(const Row& row) override {
    require(row.revision >= 0, "row revision {}", row.revision);
    const std::string body = encode(row);
    try {
      if (connection_ == nullptr) open();
    } catch (const WorldError& error) {
      return {Written::refused, error.what()};
    }
    const WriteAnswer answer = put(body, row.revision);
    if (connection_ != nullptr && connection_->in_transaction()) connection_.reset();
    return answer;
  }

  std::string name() const override { return path_; }

 private:
  void open() {
    const std::filesystem::path folder = std::filesystem::absolute(path_).parent_path();
    if (!std::filesystem::is_directory(folder))
      throw FileError("{}: there is no folder {}", path_, folder.string());
    std::error_code ignored;
    const std::uintmax_t size = std::filesystem::file_size(path_, ignored);
    if (!ignored && size > 0 && size < kHeaderBytes)  // SQLite would take it for a new one
      throw CorruptFile("{}: damaged: it has {} bytes, its header alone {}", path_, size,
                        kHeaderBytes);
    connection_ = std::make_unique<Connection>(path_);
    Connection& connection = *connection_;
    if (connection.number_of("SELECT count(*) FROM sqlite_schema") == 0) create(folder.string());
    const std::int64_t application = connection.number_of("PRAGMA application_id");
    if (application != kApplication)
      throw CorruptFile("{}: an SQLite file with application_id {}, expected {}", path_,
                        application, kApplication);
    const std::int64_t schema = connection.number_of("PRAGMA user_version");
    if (schema != kSchema)
      throw ConfigError(
          "{}: the row has schema {}, this version of Ballot expects {}: use the version that "
          "wrote it",
          path_, schema, kSchema);
    const std::string check = connection.text_of("PRAGMA quick_check(1)");
    if (check != "ok") throw CorruptFile("{}: damaged: {}", path_, check);
  }

  void create(const std::string& folder) {
    Connection& connection = *connection_;
    connection.run("BEGIN IMMEDIATE");
    // Somebody else may have been faster.
    if (connection.number_of("SELECT count(*) FROM sqlite_schema") == 0) {
      connection.run(
          "CREATE TABLE coordinator (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), "
          "run BLOB NOT NULL, revision INTEGER NOT NULL, body BLOB NOT NULL, digest TEXT NOT "
          "NULL)");
      const std::string body = encode(Row{});
      Connection::Statement(connection, "INSERT INTO coordinator VALUES (1, ?, 0, ?, ?)")
          .bind_bytes(1, run_)
          .bind_bytes(2, body)
          .bind_text(3, digest_of_row(run_, 0, body))
          .step();
      connection.run(fmt::format("PRAGMA application_id = {}", kApplication).c_str());
      connection.run(fmt::format("PRAGMA user_version = {}", kSchema).c_str());
    }
    connection.run("COMMIT");
    sync_folder(folder);
  }

  Row read() {
    Connection::Statement statement(*connection_,
                                    "SELECT run, revision, body, digest FROM coordinator");
    if (!statement.step()) throw CorruptFile("{}: damaged: the row is not in it", path_);
    const std::string run = statement.bytes(0), body = statement.bytes(2);
    const std::int64_t revision = statement.number(1);
    const std::string expected = digest_of_row(run, revision, body);
    if (statement.bytes(3) != expected)
      throw CorruptFile("{}: damaged: the row has digest {}, expected {}", path_,
                        printable(statement.bytes(3)), expected);
    if (run != run_)
      throw ConfigError("{}: the row is of run \"{}\", not of \"{}\"", path_, printable(run), run_);
    try {
      Row row = decode_row(std::as_bytes(std::span(body)));
      row.revision = revision;
      return row;
    } catch (const TransportError& error) {
      throw CorruptFile("{}: damaged: {}", path_, error.what());
    }
  }

  WriteAnswer put(const std::string& body, std::int64_t revision) {
    Connection& connection = *connection_;
    const auto refused = [&](const char* doing) {
      const std::string why = fmt::format("{}: cannot {}: {}", path_, doing, connection.error());
      if (connection.in_transaction()) connection.try_run("ROLLBACK");
      return WriteAnswer{Written::refused, why};
    };
    try {
      if (connection.try_run("BEGIN IMMEDIATE") != SQLITE_DONE) return refused("begin to write");
      Connection::Statement update(connection,
                                   "UPDATE coordinator SET revision = ?1 + 1, body = ?2, "
                                   "digest = ?3 WHERE only_row = 1 AND revision = ?1 AND run = ?4");
      update.bind(1, revision)
          .bind_bytes(2, body)
          .bind_text(3, digest_of_row(run_, revision + 1, body))
          .bind_bytes(4, run_);
      if (update.try_step() != SQLITE_DONE) return refused("write the row");
    } catch (const WorldError& error) {
      if (connection.in_transaction()) connection.try_run("ROLLBACK");
      return {Written::refused, error.what()};
    }
    if (connection.changes() != 1) {
      connection.try_run("ROLLBACK");
      return {Written::refused,
              fmt::format("{}: the row has another revision than {}", path_, revision)};
    }
    const int code = connection.try_run("COMMIT");
    if (code == SQLITE_DONE) return {Written::yes, ""};
    const std::string why = fmt::format("{}: cannot commit: {}", path_, connection.error());
    // What the kernel has dropped then nobody knows: only a new process, which reads it all again,
    // may go on.
    if (code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC)
      throw FileError("{}; the coordinator has to end", why);
    connection_.reset();  // the next one finds out, and undoes what is not whole
    return {Written::unclear, why};
  }

  const std::string path_, run_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace

std::unique_ptr<RowStore> open_sqlite_store(const std::string& path, const std::string& run) {
  return std::make_unique<SqliteStore>(path, run);
}

}  // namespace ballot
