// SPDX-License-Identifier: MIT OR Apache-2.0
//
// wrapper.cpp - include/squall.hpp from outside: what throws and what does not, who owns what.
// Run by ci/capi.rs, also under valgrind. Prints what failed; exits 1 then.
#include <squall.hpp>

#include <array>
#include <cstdio>
#include <string>
#include <unistd.h>
#if __cplusplus >= 202002L
#include <span>
#endif

static int failures = 0;

#define CHECK(condition) \
  ((condition) ? (void)0 : (void)(failures++, std::printf("line %d: %s\n", __LINE__, #condition)))

static_assert(std::is_nothrow_move_constructible_v<squall::group>);
static_assert(std::is_nothrow_move_assignable_v<squall::group>);
static_assert(!std::is_copy_constructible_v<squall::group>);
static_assert(!std::is_copy_constructible_v<squall::slot>);

static squall::options alone(const char* part) {
  squall::options options;
  options.name = "wrapper-" + std::to_string(getpid()) + "-" + part;
  return options;
}

// Polls until as many have been heard; outcomes other than counts are failures.
static void until(squall::group& group, const std::size_t& heard, std::size_t count) {
  const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (heard < count && std::chrono::steady_clock::now() < late) CHECK(group.poll().ok());
  CHECK(heard == count);
}

static void bytes_of_all_kinds() {
  std::vector<std::string> heard;
  squall::handlers handlers;
  handlers.message = [&](squall::group_view, std::uint32_t, const squall::message& message) {
    heard.emplace_back(message.text());
    CHECK(message.rank() == 0 && message.lane() == 0 && message.time_ns() > 0);
  };
  squall::group group = squall::group::open(alone("bytes"), handlers);
  const std::array<std::uint16_t, 2> numbers{0x4141, 0x4242};
  CHECK(group.send("literal").value() == 0);
  CHECK(group.send(std::string("string")).value() == 1);
  CHECK(group.send(std::string_view("view")).value() == 2);
  CHECK(group.send(std::vector<char>{'v', 'e', 'c'}).value() == 3);
  CHECK(group.send(numbers).value() == 4);
  CHECK(group.send({}).value() == 5);
  CHECK(group.send({"pointer and length", 7}).value() == 6);
  CHECK(group.send_pieces(0, "one ", std::string("two"), numbers).value() == 7);
#if __cplusplus >= 202002L
  CHECK(group.send(std::span<const std::uint16_t>(numbers)).value() == 8);
  std::span<const std::byte> view = squall::bytes_view("span");
  CHECK(view.size() == 4);
#else
  CHECK(group.send(numbers).value() == 8);
#endif
  while (heard.size() < 9) CHECK(group.poll().ok());
  const std::vector<std::string> expected{"literal", "string", "view",       "vec", "AABB", "",
                                          "pointer", "one twoAABB", "AABB"};
  CHECK(heard == expected);
  CHECK(group.send(squall::bytes_view("", (std::size_t)1 << 32)).status() == SQUALL_TOO_LONG);
}

static void slots() {
  std::size_t heard = 0;
  squall::handlers handlers;
  handlers.batch = [&](squall::group_view, std::uint32_t, const squall_message_t*,
                       std::uint32_t count) { heard += count; };
  squall::group group = squall::group::open(alone("slots"), handlers);
  { squall::slot dropped = group.reserve(10); CHECK(dropped && dropped.size() == 10); }
  squall::slot slot = group.reserve(10);
  CHECK(slot && slot.data() != nullptr && slot.status().ok());
  squall::slot second = group.reserve(10);
  CHECK(!second && second.status().status() == SQUALL_NOT_RESERVED);
  squall::slot moved = std::move(slot);
  std::memcpy(moved.data(), "moved", 5);
  CHECK(moved.publish(11).status() == SQUALL_TOO_LONG && moved);
  CHECK(moved.publish(5).value() == 0 && !moved);
  CHECK(moved.publish(5).status() == SQUALL_NOT_RESERVED);
  until(group, heard, 1);
  moved = group.reserve(4);
  moved = squall::slot(); // gives it back
  CHECK(group.send("x").value() == 1);
  until(group, heard, 2);
}

static void exceptions() {
  std::size_t heard = 0;
  squall::handlers handlers;
  handlers.message = [&](squall::group_view, std::uint32_t, const squall::message& message) {
    heard++;
    if (message.text() == "bad") throw std::runtime_error("thrown by the handler");
    if (message.text() == "odd") throw 7;
  };
  squall::group group = squall::group::open(alone("throw"), handlers);
  for (const char* text : {"bad", "odd", "good"}) CHECK(group.send(text).ok());
  std::string caught;
  try {
    while (heard < 3) CHECK(group.poll().ok());
  } catch (const std::exception& thrown) {
    caught = thrown.what();
  }
  CHECK(caught == "thrown by the handler"); // the first one,
  CHECK(heard == 3);                        // and nothing was lost by it
  CHECK(group.poll().ok());                 // once
  CHECK(group.send("odd").ok());
  int number = 0;
  try {
    while (heard < 4) CHECK(group.poll().ok());
  } catch (int thrown) {
    number = thrown;
  }
  CHECK(number == 7);
}

static void errors() {
  squall::handlers handlers;
  handlers.message = [](squall::group_view, std::uint32_t, const squall::message&) {};
  squall::options bad = alone("a/b");
  int status = 0;
  try {
    squall::group::open(bad, handlers);
  } catch (const squall::error& thrown) {
    status = thrown.status();
    CHECK(std::string(thrown.what()).find("a/b") != std::string::npos);
  }
  CHECK(status == SQUALL_INVALID);
  squall::group group;
  CHECK(!group && group.close().ok() && group.poll().status() == SQUALL_NO_HANDLE);
  CHECK(squall::group::try_open(bad, handlers, group).status() == SQUALL_INVALID && !group);
  CHECK(squall::group::try_open(alone("errors"), {}, group).status() == SQUALL_INVALID && !group);
  CHECK(squall::last_error().find("deliver") != std::string::npos);
  CHECK(squall::group::try_open(alone("errors"), handlers, group).ok() && group);
  CHECK(group.send("x", 9).status() == SQUALL_INVALID);
  bool thrown = false;
  try {
    static_cast<void>(group.send("x", 9).value());
  } catch (const squall::error& error) {
    thrown = error.status() == SQUALL_INVALID;
  }
  CHECK(thrown && group.send("x", 9).value_or(5) == 5);
}

static void settings() {
  const std::string name = "wrapper-" + std::to_string(getpid()) + "-settings";
  const std::string path = "/tmp/" + name + ".toml";
  const auto write = [&](const std::string& text) {
    std::FILE* file = std::fopen(path.c_str(), "w");
    CHECK(file != nullptr && std::fputs(text.c_str(), file) >= 0 && std::fclose(file) == 0);
  };
  squall::attributes attributes;
  write("group = 'x'\nmembres = 1\n");
  std::string caught;
  try {
    attributes.read(path);
  } catch (const squall::error& thrown) {
    caught = thrown.what();
  }
  CHECK(caught.find(".toml:2") != std::string::npos && caught.find("`members`") != std::string::npos);
  write("group = '" + name + "'\nmembers = 9\n[[subgroup]]\n[[subgroup]]\n");
  attributes.read(path);
  CHECK(attributes->members == 9 && attributes.raw().subgroup_count == 2);
  std::remove(path.c_str());
  CHECK(attributes.try_read(path.c_str()).status() == SQUALL_SYSTEM && attributes->members == 9);
  attributes->members = 1;
  std::size_t heard = 0;
  squall::handlers handlers;
  handlers.message = [&](squall::group_view, std::uint32_t subgroup, const squall::message&) {
    heard += subgroup;
  };
  squall::attributes moved = std::move(attributes);
  CHECK(attributes->members == 0);
  squall::group group = squall::group::open(moved, handlers);
  moved = squall::attributes();
  CHECK(group.send("x", 1).ok());
  until(group, heard, 1);
  squall::group other;
  CHECK(squall::group::try_open(moved, handlers, other).status() == SQUALL_INVALID && !other);
}

static void ownership() {
  std::size_t heard = 0;
  squall::outcome inside(0);
  squall::group group;
  squall::handlers handlers;
  handlers.message = [&](squall::group_view view, std::uint32_t, const squall::message&) {
    if (heard++ == 0) {
      CHECK(view.send("from inside").value() == 1);
      inside = group.close();
    }
  };
  group = squall::group::open(alone("owner"), handlers);
  CHECK(group.send("x").ok());
  until(group, heard, 2);
  CHECK(inside.status() == SQUALL_REENTRANT); // and nothing has changed
  squall::group moved = std::move(group);
  CHECK(moved && !group);
  CHECK(moved.send("y").ok());
  until(moved, heard, 3);
  const squall_group_t handle = moved.handle();
  CHECK(squall_group_rank(handle) == 0 && moved.members().value() == 1);
  squall_stats_t stats;
  CHECK(moved.stats(stats).ok() && stats.messages == 3);
  moved = squall::group();
  CHECK(squall_group_rank(handle) == SQUALL_CLOSED);
}

static void own_thread() {
  std::atomic<int> heard{0};
  squall::options options = alone("thread");
  options.flags = SQUALL_FLAG_OWN_THREAD;
  options.subgroups.resize(2);
  options.subgroups[0].lanes = 2;
  options.subgroups[1].receive_only = true;
  squall::handlers handlers;
  handlers.message = [&](squall::group_view, std::uint32_t, const squall::message&) {
    if (++heard == 1) throw std::runtime_error("from the group's thread");
  };
  squall::group group = squall::group::open(options, handlers);
  CHECK(group.send("x", SQUALL_LANE(0, 1)).ok());
  CHECK(group.send("x", 1).status() == SQUALL_NOT_SENDER);
  bool thrown = false;
  const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!thrown && std::chrono::steady_clock::now() < late) {
    try {
      group.rethrow();
      sched_yield();
    } catch (const std::runtime_error&) {
      thrown = true;
    }
  }
  CHECK(thrown && group.poll().status() == SQUALL_OWN_THREAD);
}

int main() {
  bytes_of_all_kinds();
  slots();
  exceptions();
  errors();
  settings();
  ownership();
  own_thread();
  return failures != 0;
}
