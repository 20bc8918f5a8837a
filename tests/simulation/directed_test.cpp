// The schedules of section "Schedules" of docs/protocol.md, each over a grid of times and places: a
// random run would meet them seldom, or never at that instant.
#include "tests/simulation/told.h"

namespace ballot::sim {
namespace {

using Kind = Fault::Kind;

struct Schedule {
  explicit Schedule(int workers, std::uint64_t seed = 1) {
    s.workers = workers;
    s.seed = seed;
  }
  Fault& add(Kind kind, int who, Milliseconds at, Milliseconds lasts) {
    Fault f;
    f.kind = kind;
    f.who = who;
    f.at = at;
    f.lasts = lasts;
    s.faults.push_back(f);
    return s.faults.back();
  }
  void crash(int who, Milliseconds at, Milliseconds back) { add(Kind::crash, who, at, back); }
  void crash_at(int who, Milliseconds at, Point point, int count, Milliseconds back) {
    Fault& f = add(Kind::crash_at, who, at, back);
    f.point = point;
    f.count = count;
  }
  void coordinator_crash_at(Milliseconds at, Point point, int count, Milliseconds back) {
    Fault& f = add(Kind::coordinator_crash_at, 0, at, back);
    f.point = point;
    f.count = count;
  }
  void partition(std::uint32_t mask, Milliseconds at, Milliseconds lasts) {
    add(Kind::partition, 0, at, lasts).mask = mask;
  }
  void cut(int from, int to, Milliseconds at, Milliseconds lasts) {
    add(Kind::cut_link, from, at, lasts).other = to;
  }
  void late(double rate, int most, Milliseconds at, Milliseconds lasts) {
    Fault& f = add(Kind::delays, 0, at, lasts);
    f.rate = rate;
    f.count = most;
  }
  Outcome holds() const { return expect_holds(s); }
  Scenario s;
};

constexpr std::uint32_t kCoordinator = 1u << 30;
constexpr Point kHoldersPoints[] = {Point::before_sealed_pulse,
                                    Point::after_sealed_pulse,
                                    Point::before_append,
                                    Point::before_apply,
                                    Point::before_sync,
                                    Point::after_sync,
                                    Point::entered};

// 1: H2, H18.
TEST(Directed, OwnerDiesAfterItsVerdictReachedSomeThenTheSoleHolderDies) {
  for (const int workers : {2, 3, 4})
    for (int reached = 0; reached < workers; ++reached)
      for (const Point point : kHoldersPoints)
        for (const Milliseconds back : {300, 2500, 7000}) {
          Schedule d(workers);
          d.crash_at(0, 1500, Point::send_verdict, reached + 1, 4000);
          d.crash_at(1, 1550, point, 1, back);
          if (d.holds().invariant) return;
        }
}

// 1, with the source dying while it hands over, and what it hands over being fetched.
TEST(Directed, TheSoleHolderDiesAroundHandingOver) {
  for (const int reached : {1, 2})
    for (const Point point : {Point::entered, Point::fetched})
      for (const int second : {1, 2})
        for (std::uint64_t seed = 1; seed <= 4; ++seed) {
          Schedule d(3, seed);
          d.crash_at(0, 1500, Point::send_verdict, reached + 1, 5000);
          d.crash_at(second, 2000, point, 1, 3000);
          if (d.holds().invariant) return;
        }
}

// 2: warm and cold, at each point of the later steps.
TEST(Directed, TheSoleHolderIsCutOffAndReturnsWarmAndCold) {
  for (Milliseconds away = 1200; away <= 8000; away += 400)
    for (const bool cold : {false, true}) {
      Schedule d(4);
      d.crash_at(0, 1500, Point::send_verdict, 2, 1000);
      d.partition(0b0010, 1720, away);
      if (cold) d.crash(1, 1720 + away / 2, away / 2);
      if (d.holds().invariant) return;
    }
}

// 3: H1, H5.
TEST(Directed, LateFramesMeetSealsAndNewTerms) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Schedule d(3, seed);
    d.add(Kind::join, 3, 700, 0);
    d.late(0.4, 900, 1000, 6000);
    d.crash(1, 2000 + 30 * static_cast<Milliseconds>(seed), 10);
    d.crash(2, 4000, 10);
    if (d.holds().invariant) return;
  }
}

// 4.
TEST(Directed, SeveralTermsBeginBeforeOneStepEnds) {
  for (const Milliseconds gap : {10, 100, 300, 800, 1500})
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      Schedule d(4, seed);
      for (int w = 0; w < 4; ++w) d.add(Kind::slow, w, 1000, 9000).count = 12;
      d.crash(1, 2000, 2500);
      d.crash(2, 2000 + gap, 2500);
      d.crash(3, 2000 + 2 * gap, 2500);
      d.cut(30, 0, 2100, 1500);  // hears nothing of the terms between
      if (d.holds().invariant) return;
    }
}

// 5.
TEST(Directed, AStoppedOwnerGoesOnAfterTheTimeouts) {
  for (Milliseconds at = 1500; at < 1900; at += 20)
    for (const Milliseconds stopped : {700, 1500, 4000}) {
      Schedule d(3);
      d.add(Kind::pause, 1, at, stopped);
      if (d.holds().invariant) return;
    }
}

// 6.
TEST(Directed, TheCoordinatorDiesAroundEachRowAndOrder) {
  for (const Point point : {Point::before_put, Point::after_put, Point::after_order})
    for (int count = 1; count <= 12; ++count)
      for (const Milliseconds away : {100, 1500}) {
        Schedule d(3);
        d.crash(1, 1500, 900);
        d.coordinator_crash_at(1400, point, count, away);
        if (d.holds().invariant) return;
      }
}

TEST(Directed, ALeaderThatWasStoppedOverItsLeaseWritesNothing) {
  for (const Milliseconds noticed : {10, 1000, 5000})
    for (const std::uint32_t side : {0b0001u, 0b0011u, 0b0111u})
      for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        Schedule d(4, seed);
        d.s.coordinators = 2;
        d.s.min_workers = 1;
        // Each hears other workers: one side goes with coordinator 0, the other with coordinator 1.
        d.partition(side | kCoordinator, 2000, 4000);
        d.add(Kind::lease, 1, 2500, noticed);
        d.add(Kind::coordinator_pause, 0, 2600, 1200);
        d.crash(0, 2700, 1500);
        if (d.holds().invariant) return;
      }
}

TEST(Directed, TheStoreAnswersBadlyOrLate) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    Schedule d(3, seed);
    d.s.coordinators = 2;
    d.add(Kind::store_trouble, 0, 300, 9000).rate = 0.4;
    d.add(Kind::lease, 1, 3000, 800);
    d.crash(2, 2000, 700);
    d.crash(1, 5000, 700);
    if (d.holds().invariant) return;
  }
}

TEST(Directed, StepsGoOnWithoutACoordinator) {
  Schedule d(3);
  d.add(Kind::coordinator_crash, 0, 1500, 8000);
  const Outcome outcome = d.holds();
  EXPECT_GT(outcome.steps, 30);  // 12 s of steps of about 0.25 s
  EXPECT_EQ(outcome.terms, 1);
}

// C5: emptied, or restored from a copy; the steps made meanwhile stay.
TEST(Directed, TheRowIsLostAndRecovered) {
  for (const int terms : {0, 1, 100})
    for (const Milliseconds second : {0, 300, 2500})
      for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        Schedule d(3, seed);
        d.crash(1, 1500, 200);
        d.add(Kind::row_lost, 0, 4000, 0).count = terms;
        if (second > 0) d.crash(2, 4000 + second, 300);
        if (d.holds().invariant) return;
      }
}

// 7.
TEST(Directed, PartitionsWithTheCoordinatorOnEitherSideOrNone) {
  for (const std::uint32_t mask : {0b0011u | kCoordinator, 0b0011u, 0b1100u | kCoordinator})
    for (const Milliseconds lasts : {500, 2000, 6000})
      for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        Schedule d(4, seed);
        d.partition(mask, 2000, lasts);
        if (d.holds().invariant) return;
        Schedule neither(4, seed);
        neither.partition(0b0011, 2000, lasts);
        neither.partition(kCoordinator, 2000, lasts);
        if (neither.holds().invariant) return;
      }
}

TEST(Directed, OneLinkOfAPairOrOneDirectionIsLost) {
  for (const int workers : {2, 3, 4})
    for (const bool both : {false, true})
      for (const Milliseconds lasts : {400, 3000, 9000}) {
        Schedule d(workers);
        d.cut(0, 1, 2000, lasts);
        if (both) d.cut(1, 0, 2000, lasts);
        if (d.holds().invariant) return;
      }
}

// H15: two healthy workers without a link between them: the run goes on, with one of them.
TEST(Directed, ALinkThatIsGoneForLongCostsOneWorkerNotTheRun) {
  Schedule d(3);
  d.s.fault_time = 40'000;
  d.cut(0, 1, 2000, 38'000);
  d.cut(1, 0, 2000, 38'000);
  EXPECT_GT(d.holds().steps, 40);
}

// 8: H3, H23.
TEST(Directed, AllDieAtOnceAndComeBackInEveryOrder) {
  const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& order : orders)
    for (const int slow : {-1, 0, 1, 2})
      for (const Milliseconds apart : {200, 1500, 5000}) {
        Schedule d(3);
        if (slow >= 0) d.add(Kind::slow_sync, slow, 1000, 3000);  // furthest behind
        for (int i = 0; i < 3; ++i) d.crash(order[i], 2500, 300 + i * apart);
        if (d.holds().invariant) return;
      }
}

TEST(Directed, AllDieAndOneDiskNeverReturns) {
  for (const int gone : {0, 1, 2})
    for (const int slow : {-1, 0, 1, 2}) {
      Schedule d(3);
      d.s.revived = false;
      if (slow >= 0 && slow != gone) d.add(Kind::slow_sync, slow, 1000, 3000);
      for (int w = 0; w < 3; ++w) d.crash(w, 2500, w == gone ? 0 : 500);
      if (d.holds().invariant) return;
    }
}

TEST(Directed, AllDiskButOneAreLostOneAfterTheOther) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Schedule d(3, seed);
    d.add(Kind::lose_disk, 0, 2000, 500);
    d.add(Kind::lose_disk, 1, 5000, 500);
    d.add(Kind::lose_disk, 2, 8000, 500);
    if (d.holds().invariant) return;
  }
}

// 9: H8, H20.
TEST(Directed, LateVotersOfAQuorumAndADyingOwner) {
  for (const int owner : {0, 1, 2})
    for (int reached = 1; reached <= 4; ++reached)
      for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        Schedule d(4, seed);
        d.s.quorum = 3;
        d.add(Kind::slow, 3, 1000, 6000).count = 3;
        d.late(0.2, 300, 1500, 5000);  // late for some chunks
        d.crash_at(owner, 2500, Point::send_verdict, reached, 1500);
        if (d.holds().invariant) return;
      }
}

// 10.
TEST(Directed, JoinsDuringStepsChangesAndOtherJoins) {
  for (Milliseconds at = 1500; at < 4500; at += 250)
    for (const Milliseconds second : {0, 40, 300}) {
      Schedule d(2);
      d.crash(1, 2200, 1200);
      d.add(Kind::join, 2, at, 0);
      d.add(Kind::join, 3, at + second, 0);
      if (d.holds().invariant) return;
    }
}

TEST(Directed, SourceOrJoinerDieInMidTransfer) {
  for (int count = 1; count <= 6; ++count)
    for (const bool source : {false, true}) {
      Schedule d(2);
      d.add(Kind::join, 2, 3000, 0);
      if (source)
        d.crash(0, 3100 + 10 * count, 900);
      else
        d.crash_at(2, 3000, Point::fetched, count, 400);
      if (d.holds().invariant) return;
    }
}

TEST(Directed, JoinersDieWhileTheyGoBack) {
  for (const Point point : {Point::before_cut, Point::after_cut})
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      Schedule d(4, seed);
      d.crash_at(0, 1500, Point::send_verdict, 2, 6000);
      d.crash_at(1, 1500, Point::before_sealed_pulse, 1, 3000);
      d.crash_at(1, 3000, point, 1, 500);
      if (d.holds().invariant) return;
    }
}

TEST(Directed, ALeaveRacesACrashAndTheLastWorkerLeaves) {
  for (Milliseconds after = 0; after < 900; after += 60) {
    Schedule d(3);
    d.add(Kind::leave, 0, 2000, 0);
    d.crash(1, 2000 + after, 800);
    if (d.holds().invariant) return;
    Schedule last(2);
    last.add(Kind::leave, 0, 2000, 0);
    last.add(Kind::leave, 1, 2000 + after, 0);
    if (last.holds().invariant) return;
  }
}

// R8: the journals no longer reach back to what it has.
TEST(Directed, ANewcomerLoadsACheckpointAndFetchesTheRest) {
  for (const Milliseconds at : {4000, 5000, 6000})
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      Schedule d(2, seed);
      d.s.checkpoint_every = 4;
      d.add(Kind::join, 2, at, 0);
      d.crash(0, at + 200 * static_cast<Milliseconds>(seed), 500);
      const Outcome outcome = d.holds();
      if (outcome.invariant) return;
      EXPECT_GE(outcome.loaded_checkpoints, 1);
    }
}

// R10, 5: a worker dies, or is stopped, at every place of the making of a checkpoint.
TEST(Directed, AWorkerDiesWhileItWritesOrPublishesACheckpoint) {
  for (const Point point :
       {Point::before_share, Point::after_share, Point::before_publish, Point::after_publish})
    for (int who = 0; who < 3; ++who)
      for (const int count : {1, 2, 3}) {
        Schedule d(3, static_cast<std::uint64_t>(10 * who + count));
        d.s.checkpoint_every = 4;
        d.crash_at(who, 1000, point, count, 400 * count);
        const Outcome outcome = d.holds();
        if (outcome.invariant) return;
        EXPECT_GE(outcome.published, 4);
      }
}

TEST(Directed, AWriterIsStoppedWhileOthersPublishLaterCheckpoints) {
  for (Milliseconds at = 1000; at < 3000; at += 100) {
    Schedule d(3);
    d.s.checkpoint_every = 3;
    d.add(Kind::pause, 0, at, 3500);
    const Outcome outcome = d.holds();
    if (outcome.invariant) return;
    EXPECT_GE(outcome.published, 4);
  }
}

TEST(Directed, TheCoordinatorDiesWhileACheckpointIsPublished) {
  for (Milliseconds at = 1500; at < 3500; at += 60) {
    Schedule d(3);
    d.s.checkpoint_every = 4;
    d.add(Kind::coordinator_crash, 0, at, 500);
    d.crash(0, at + 100, 900);
    if (d.holds().invariant) return;
  }
}

// H11: all die, the newest checkpoint cannot be read, the one before it and the journals can.
TEST(Directed, AfterADamagedCheckpointTheOneBeforeAndItsJournalDo) {
  for (Milliseconds at = 3000; at < 6000; at += 150) {
    Schedule d(3);
    d.s.checkpoint_every = 4;
    d.add(Kind::damage_checkpoint, 0, at - 1, 0);
    for (int w = 0; w < 3; ++w) d.crash(w, at, 500 + 300 * w);
    const Outcome outcome = d.holds();
    if (outcome.invariant) return;
    EXPECT_EQ(outcome.loaded_checkpoints, 0);
  }
}

// 11: the replica is found, rebuilt, and in no checkpoint; the run goes on meanwhile.
TEST(Directed, AFlippedBitIsHealedAndNeverPublished) {
  for (int bit = 22; bit < 32 * 23; bit += 23)
    for (int who = 0; who < 3; ++who) {
      Schedule d(3, static_cast<std::uint64_t>(bit));
      d.s.checkpoint_every = 4;
      d.add(Kind::flip, who, 1500 + 7 * bit % 2000, 0).count = bit;
      const Outcome outcome = d.holds();
      if (outcome.invariant) return;
      EXPECT_EQ(outcome.rebuilds, 1);
    }
}

// Neither can know which of the two is right: both replay, and the run goes on by itself, with
// fewer than min_workers meanwhile too.
TEST(Directed, WithTwoWorkersAFlippedBitIsJudgedByReplay) {
  for (const int min_workers : {1, 2})
    for (int who = 0; who < 2; ++who)
      for (int bit = 0; bit < 32 * 23; bit += 61) {
        Schedule d(2);
        d.s.min_workers = min_workers;
        d.s.checkpoint_every = 4;
        d.add(Kind::flip, who, 1500 + 7 * bit % 2000, 0).count = bit;
        const Outcome outcome = d.holds();
        if (outcome.invariant) return;
        EXPECT_EQ(outcome.rebuilds, 2);
      }
}

// And one of them dies meanwhile, wherever it is; or the coordinator, which then asks again.
TEST(Directed, OneOfTwoThatReplayDies) {
  for (const Point point : {Point::before_cut, Point::after_cut, Point::entered})
    for (int who = 0; who < 2; ++who) {
      Schedule d(2);
      d.s.checkpoint_every = 4;
      d.add(Kind::flip, 0, 1500, 0).count = 22;
      d.crash_at(who, 1600, point, 1, 500);
      if (d.holds().invariant) return;
    }
  for (Milliseconds at = 1500; at < 3000; at += 100) {
    Schedule d(2);
    d.s.checkpoint_every = 4;
    d.add(Kind::flip, 1, 1500, 0).count = 22;
    d.add(Kind::coordinator_crash, 0, at, 300);
    if (d.holds().invariant) return;
  }
}

// The end of a run: whoever is away then finds it, all end, and another end may follow.
TEST(Directed, ARunEndsForAllWhoeverIsAwayThen) {
  for (int who = 0; who < 3; ++who)
    for (Milliseconds at = 2200; at < 4200; at += 100)
      for (const Milliseconds back : {200, 1500, 4500}) {
        Schedule d(3);
        d.s.steps = 10;
        d.crash(who, at, back);
        if (d.holds().invariant) return;
      }
}

TEST(Directed, ALateComerFindsTheRunEndedAndEndsToo) {
  for (const int every : {0, 4}) {
    Schedule d(2);
    d.s.steps = 8;
    d.s.checkpoint_every = every;
    d.add(Kind::join, 2, 7000, 0);
    const Outcome outcome = d.holds();
    if (outcome.invariant) return;
    EXPECT_EQ(outcome.steps, 0);  // nobody is there any more
    EXPECT_LT(outcome.recovery, 1000);
  }
}

TEST(Directed, ARunIsMadeLongerBeforeAndAfterItsEnd) {
  for (const int workers : {1, 2, 3})
    for (Milliseconds at = 1500; at < 7500; at += 250) {
      Schedule d(workers);
      d.s.steps = 10;
      d.add(Kind::other_length, -1, at, 2500).count = 6;
      if (d.holds().invariant) return;
    }
}

TEST(Directed, AWorkerWithAnotherLengthIsNotInTheRun) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Schedule d(3, seed);
    add_two_lengths(d.s, seed);
    if (d.holds().invariant) return;
  }
}

// C4: it is told from the end of its stream, not from its silence.
TEST(Directed, AKilledWorkerIsNotWaitedForUntilItsHeartbeatTimeout) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Schedule d(3, seed);
    d.crash(1, 3000, 4000);
    const Outcome outcome = d.holds();
    if (outcome.invariant) return;
    EXPECT_LT(outcome.longest_pause, 1000);  // the timeout; the step that it interrupted included
  }
}

// A stream that breaks while its worker lives costs a term at most.
TEST(Directed, AStreamThatBreaksForNothingCostsATermAtMost) {
  for (Milliseconds lasts = 100; lasts < 2500; lasts += 200)
    for (const Milliseconds at : {2000, 2130, 2260}) {
      Schedule d(3);
      d.add(Kind::break_stream, 1, at, lasts).mask = 1;
      const Outcome outcome = d.holds();
      if (outcome.invariant) return;
      EXPECT_LE(outcome.terms, 4);  // without it, and with it again
    }
}

// C4: who applies slower than it holds counts as silent after max_lag steps.
TEST(Directed, AWorkerThatAppliesTooSlowlyIsNotWaitedFor) {
  for (const int takes : {300, 700, 1500})
    for (const int quorum : {0, 2}) {
      Schedule d(3);
      d.s.quorum = quorum;
      d.s.checkpoint_every = 5;
      Fault& slow = d.add(Kind::slow_apply, 2, 1500, 6000);
      slow.count = takes;
      const Outcome outcome = d.holds();
      if (outcome.invariant) return;
    }
}

// 11: what a crash does to the tail of a journal is a die in every crash; here the other two.
TEST(Directed, AProcessWhoseDiskFailsEndsAndItsWorkerComesBack) {
  for (int bytes = 0; bytes < 2000; bytes += 97) {
    Schedule d(3);
    d.add(Kind::disk_full, 1, 2000, 0).count = bytes;
    d.add(Kind::sync_error, 2, 2500 + bytes, 0);
    const Outcome outcome = d.holds();
    if (outcome.invariant) return;
    EXPECT_GE(outcome.crashes, 2);
  }
}

TEST(Directed, ARecordTornAtAnyByteIsCutBack) {
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    Schedule d(2, seed);
    for (const int w : {0, 1}) {
      d.add(Kind::slow_sync, w, 1000, 900);
      d.crash(w, 1800, 300);
    }
    if (d.holds().invariant) return;
  }
}

// 12: I9 is checked with every step.
TEST(Directed, FourWorkersOneWorkerFourWorkers) {
  for (const Milliseconds gap : {0, 150, 400})
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      Schedule d(4, seed);
      for (const int w : {1, 2, 3}) d.crash(w, 2000 + gap * w, 5000);
      if (d.holds().invariant) return;
    }
}

// 13: as under MPI, the job ends and starts again with those that are left.
TEST(Directed, AJobRestartsWithFewerWorkers) {
  for (const int gone : {0, 1, 2})
    for (Milliseconds at = 2000; at < 2300; at += 30) {
      Schedule d(3);
      d.s.revived = false;
      d.add(Kind::coordinator_crash, 0, at, 300);
      for (int w = 0; w < 3; ++w) d.crash(w, at, w == gone ? 0 : 300);
      if (d.holds().invariant) return;
    }
}

}  // namespace
}  // namespace ballot::sim
