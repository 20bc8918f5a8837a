// Where the row lies: conditional writes, races, damage, full disks and sudden ends.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/row_store.h"
#include "tests/runtime/coordinator_messages.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::HasSubstr;

Row row_of_step(std::int64_t step) {
  Row row = test::full_row();
  row.commit.step = step;
  return row;
}

// The same tests for every store: two of them lead to one row.
struct TwoStores {
  std::unique_ptr<RowStore> one, other;
};

class Store : public testing::TestWithParam<const char*> {
 protected:
  TwoStores open() {
    if (std::string(GetParam()) == "memory") {
      const auto row = make_memory_row();
      return {open_memory_store(row), open_memory_store(row)};
    }
    return {open_sqlite_store(path(), "run"), open_sqlite_store(path(), "run")};
  }
  std::string path() const { return folder_.file("coordinator.db"); }
  TemporaryFolder folder_;
};

TEST_P(Store, IsEmptyBeforeTheFirstWrite) {
  const TwoStores stores = open();
  const Row row = stores.one->load();
  EXPECT_EQ(row.revision, 0);
  EXPECT_FALSE(row.term.has_value());
  EXPECT_TRUE(row.incarnations.empty());
}

TEST_P(Store, GivesBackWhatWasWrittenUnderTheNextRevision) {
  const TwoStores stores = open();
  Row row = row_of_step(5);
  EXPECT_EQ(stores.one->write(row).written, Written::yes);
  for (RowStore* store : {stores.one.get(), stores.other.get()}) {
    const Row read = store->load();
    EXPECT_EQ(read.revision, 1);
    EXPECT_EQ(encode(read), encode(row));
  }
}

TEST_P(Store, AWriteOnAnotherRevisionIsRefusedAndChangesNothing) {
  const TwoStores stores = open();
  Row mine = stores.one->load(), theirs = stores.other->load();
  mine.commit.step = 1;
  theirs.commit.step = 2;
  EXPECT_EQ(stores.other->write(theirs).written, Written::yes);
  const WriteAnswer answer = stores.one->write(mine);
  EXPECT_EQ(answer.written, Written::refused);
  EXPECT_THAT(answer.why, HasSubstr("revision"));
  EXPECT_EQ(stores.one->load().commit.step, 2);
  Row ahead = stores.one->load();
  ahead.revision = 17;
  EXPECT_EQ(stores.one->write(ahead).written, Written::refused);
  EXPECT_EQ(stores.one->load().revision, 1);
}

TEST_P(Store, OfTwoThatRaceOneWins) {
  TwoStores stores = open();
  constexpr int kRounds = 25;
  std::atomic<int> wins = 0;
  const auto race = [&](RowStore& store) {
    for (int i = 0; i < kRounds; ++i) {
      Row row = store.load();
      ++row.commit.step;  // lost if two writes of one revision were taken
      if (store.write(row).written == Written::yes) ++wins;
    }
  };
  std::thread thread([&] { race(*stores.other); });
  race(*stores.one);
  thread.join();
  EXPECT_GE(wins, kRounds);
  EXPECT_EQ(stores.one->load().revision, wins);
  EXPECT_EQ(stores.one->load().commit.step, wins);
}

INSTANTIATE_TEST_SUITE_P(Every, Store, testing::Values("memory", "sqlite"),
                         [](const auto& instance) { return std::string(instance.param); });

class SqliteStore : public testing::Test {
 protected:
  std::unique_ptr<RowStore> open(const std::string& run = "run") {
    return open_sqlite_store(path(), run);
  }
  std::string path() const { return folder_.file("coordinator.db"); }
  void execute(const std::string& sql) const {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(path().c_str(), &database), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(database);
    sqlite3_close(database);
  }
  template <class Error>
  static std::string error_of(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& error) {
      return error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "another error: " << error.what();
    }
    return "accepted";
  }
  TemporaryFolder folder_;
};

TEST_F(SqliteStore, KeepsTheRowInOneFile) {
  {
    const auto store = open();
    EXPECT_EQ(store->write(row_of_step(5)).written, Written::yes);
    EXPECT_EQ(store->name(), path());
  }
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    ++files;
  EXPECT_EQ(files, 1);
  EXPECT_EQ(open()->load().commit.step, 5);
}

TEST_F(SqliteStore, OfAnotherRunIsRefused) {
  open("llama")->write(row_of_step(5));
  EXPECT_THAT(error_of<ConfigError>([&] { open("gpt"); }),
              HasSubstr("the row is of run \"llama\", not of \"gpt\""));
}

TEST_F(SqliteStore, OfAnotherSchemaIsRefused) {
  open()->write(row_of_step(5));
  for (const int schema : {0, 2}) {
    execute(fmt::format("PRAGMA user_version = {}", schema));
    EXPECT_THAT(error_of<ConfigError>([&] { open(); }),
                HasSubstr(fmt::format("schema {}, this version of Ballot expects 1", schema)));
  }
}

TEST_F(SqliteStore, ThatIsNoneIsRefused) {
  std::ofstream(path()) << std::string(5000, 'x');
  EXPECT_THAT(error_of<CorruptFile>([&] { open(); }), HasSubstr("not a database"));
  std::filesystem::remove(path());
  execute("CREATE TABLE other (x)");
  EXPECT_THAT(error_of<CorruptFile>([&] { open(); }), HasSubstr("application_id"));
}

TEST_F(SqliteStore, InNoFolderIsRefusedByName) {
  EXPECT_THAT(error_of<FileError>([&] { open_sqlite_store(folder_.file("no/row.db"), "run"); }),
              HasSubstr("there is no folder"));
}

TEST_F(SqliteStore, AChangedRowIsRefused) {
  open()->write(row_of_step(5));
  execute("UPDATE coordinator SET revision = 9");
  EXPECT_THAT(error_of<CorruptFile>([&] { open(); }), HasSubstr("the row has digest"));
  execute("DELETE FROM coordinator");
  EXPECT_THAT(error_of<CorruptFile>([&] { open(); }), HasSubstr("the row is not in it"));
}

// Whatever byte is damaged, a row that is given out is the one that was written.
TEST_F(SqliteStore, AFlippedByteIsRefusedOrChangesNothing) {
  const std::string wanted = [&] {
    const auto store = open();
    store->write(row_of_step(5));
    return encode(store->load());
  }();
  const std::string whole = read_file(path());
  int refused = 0;
  for (std::size_t at = 0; at < whole.size(); at += at < 200 ? 1 : 37) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    std::ofstream(path(), std::ios::binary) << damaged;
    try {
      EXPECT_EQ(encode(open()->load()), wanted) << "byte " << at;
    } catch (const WorldError&) {
      ++refused;
    }
    std::filesystem::remove(path() + "-journal");
  }
  EXPECT_GT(refused, 10);
}

TEST_F(SqliteStore, ATruncatedFileIsRefused) {
  open()->write(row_of_step(5));
  const std::string whole = read_file(path());
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(path(), std::ios::binary) << whole.substr(0, size);
    EXPECT_THROW(open(), WorldError) << size;
  }
}

TEST_F(SqliteStore, AWriteWaitsForAnotherProcessToEndItsOwn) {
  const auto store = open();
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path().c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
  std::thread thread([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    sqlite3_exec(other, "COMMIT", nullptr, nullptr, nullptr);
  });
  EXPECT_EQ(store->write(row_of_step(5)).written, Written::yes);
  thread.join();
  sqlite3_close(other);
}

TEST_F(SqliteStore, AFullDiskLosesNothingAndIsOverWhenThereIsRoom) {
  const auto store = open();
  EXPECT_EQ(store->write(row_of_step(5)).written, Written::yes);
  Row row = store->load();
  row.commit.step = 6;
  for (int i = 0; i < 4; ++i) row.checkpoints.push_back(test::full_checkpoint());
  row.checkpoints[0].files.assign(1000, std::string(100, 'f'));  // needs more pages

  const auto before = signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{20 * 1024, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const WriteAnswer full = store->write(row);
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, before);

  EXPECT_NE(full.written, Written::yes);
  EXPECT_THAT(full.why, HasSubstr("coordinator.db"));
  EXPECT_EQ(store->load().commit.step, 5);
  EXPECT_EQ(open()->load().commit.step, 5);
  EXPECT_EQ(store->write(row).written, Written::yes);
  EXPECT_EQ(open()->load().commit.step, 6);
}

// A child writes and tells each revision that it was told is durable; it is killed at any instant.
TEST_F(SqliteStore, WhatWasSaidToBeWrittenSurvivesAKill) {
  open();
  std::int64_t last = 0;
  for (int round = 0; round < 8; ++round) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        const auto store = open();
        while (true) {
          Row row = store->load();
          ++row.commit.step;
          if (store->write(row).written != Written::yes) ::_exit(1);
          const std::int64_t revision = row.revision + 1;
          if (::write(pipe[1], &revision, sizeof revision) != sizeof revision) ::_exit(2);
        }
      } catch (...) {
        ::_exit(3);
      }
    }
    ::close(pipe[1]);
    const std::int64_t enough = last + 2 + round;
    std::int64_t told = 0;
    while (::read(pipe[0], &told, sizeof told) == sizeof told && told < enough) {
    }
    ::kill(child, SIGKILL);
    while (::read(pipe[0], &told, sizeof told) == sizeof told) {
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ::close(pipe[0]);
    EXPECT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);
    const Row row = open()->load();
    EXPECT_GE(row.revision, told);
    EXPECT_LE(row.revision, told + 1);
    EXPECT_EQ(row.commit.step, row.revision);
    last = row.revision;
  }
}

}  // namespace
}  // namespace ballot
