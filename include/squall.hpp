// SPDX-License-Identifier: MIT OR Apache-2.0
//
// squall.hpp - squall.h for C++17 and later: a group that closes itself, views of bytes, statuses
// that cannot be overlooked. Header only; everything is one call of the C functions deep, whose
// comments hold here too.
//
// ERRORS      What ends a call is an `outcome`: a count or a negative status. Nothing throws but
//             what says so: `open`, `outcome::value`, and `poll`, which rethrows what a handler of
//             yours has thrown. `try_open` does not.
// HANDLERS    run on the thread that polls. They may throw: the exception is kept, the messages
//             after it are handed over all the same, and the first one comes out of `poll` (or of
//             `rethrow`, if the group polls itself).
// LIFETIME    A group must not be destroyed from inside its handlers: it would stay open. It may be
//             moved at any time: its handlers stay where they are.
#ifndef SQUALL_HPP
#define SQUALL_HPP

#include "squall.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace squall {

// The sentence about this thread's last error: cause, value and remedy. Empty: there was none.
inline std::string last_error() {
  std::string text(squall_last_error(nullptr, 0), '\0');
  squall_last_error(&text[0], text.size());
  text.resize(std::strlen(text.c_str()));
  return text;
}

// What `open` and `outcome::value` throw.
class error : public std::runtime_error {
 public:
  error(int status, const std::string& detail)
      : std::runtime_error(std::string(squall_status_text(status)) +
                           (detail.empty() ? "" : ": ") + detail),
        status_(status) {}
  int status() const noexcept { return status_; }

 private:
  int status_;
};

// A count, or a negative status.
class [[nodiscard]] outcome {
 public:
  constexpr explicit outcome(std::int64_t code) noexcept : code_(code) {}
  constexpr bool ok() const noexcept { return code_ >= 0; }
  constexpr explicit operator bool() const noexcept { return ok(); }
  // Nothing is lost: poll, then try again.
  constexpr bool again() const noexcept { return code_ == SQUALL_AGAIN; }
  // A member has closed the group, in good order; or this one has left, as it asked to.
  constexpr bool left() const noexcept {
    return code_ == SQUALL_PEER_LEFT || code_ == SQUALL_LEFT;
  }
  constexpr int status() const noexcept { return code_ < 0 ? static_cast<int>(code_) : SQUALL_OK; }
  const char* text() const noexcept { return squall_status_text(status()); }
  // The count; throws `error` if there is none.
  std::uint64_t value() const {
    if (code_ < 0) throw error(status(), std::string());
    return static_cast<std::uint64_t>(code_);
  }
  constexpr std::uint64_t value_or(std::uint64_t other) const noexcept {
    return code_ < 0 ? other : static_cast<std::uint64_t>(code_);
  }

 private:
  std::int64_t code_;
};

// Bytes that belong to somebody else: made from a pointer and a length, or from whatever has
// `data()` and `size()` and trivially copyable elements (strings, vectors, arrays, std::span). It
// is a range of bytes itself, so that a std::span<const std::byte> can be made of it.
class bytes_view {
 public:
  constexpr bytes_view() noexcept = default;
  constexpr bytes_view(const void* data, std::size_t size) noexcept : data_(data), size_(size) {}
  bytes_view(const char* text) noexcept : data_(text), size_(std::strlen(text)) {}
  template <class Range, class Element = std::remove_pointer_t<
                             decltype(std::data(std::declval<const Range&>()))>,
            class = std::enable_if_t<!std::is_same_v<Range, bytes_view> &&
                                     !std::is_array_v<Range> &&
                                     std::is_trivially_copyable_v<Element>>>
  constexpr bytes_view(const Range& range) noexcept
      : data_(std::data(range)), size_(std::size(range) * sizeof(Element)) {}

  constexpr const void* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  const std::byte* begin() const noexcept { return static_cast<const std::byte*>(data_); }
  const std::byte* end() const noexcept { return begin() + size_; }
  std::string_view text() const noexcept { return {static_cast<const char*>(data_), size_}; }

 private:
  const void* data_ = nullptr;
  std::size_t size_ = 0;
};

// A delivered message: valid until the handler returns.
class message {
 public:
  explicit message(const squall_message_t& raw) noexcept : raw_(&raw) {}
  bytes_view bytes() const noexcept { return {raw_->bytes, raw_->len}; }
  std::string_view text() const noexcept { return bytes().text(); }
  std::uint16_t rank() const noexcept { return raw_->rank; }
  std::uint16_t lane() const noexcept { return raw_->lane; }
  std::uint64_t number() const noexcept { return raw_->number; }
  std::uint64_t time_ns() const noexcept { return raw_->time_ns; }
  const squall_message_t& raw() const noexcept { return *raw_; }

 private:
  const squall_message_t* raw_;
};

// A reserved slot: fill `data()`, then `publish`. One that was not published is given back.
class slot {
 public:
  slot() noexcept = default;
  slot(slot&& other) noexcept { *this = std::move(other); }
  slot& operator=(slot&& other) noexcept {
    if (this != &other) {
      abort();
      group_ = other.group_;
      subgroup_ = other.subgroup_;
      size_ = other.size_;
      status_ = other.status_;
      data_ = std::exchange(other.data_, nullptr);
    }
    return *this;
  }
  ~slot() { abort(); }

  // Whether there is one; if not, `status()` says why.
  explicit operator bool() const noexcept { return data_ != nullptr; }
  outcome status() const noexcept { return outcome(status_); }
  void* data() const noexcept { return data_; }
  std::uint32_t size() const noexcept { return size_; }
  // Sends the first `len` bytes. If that is more than was reserved, the slot stays.
  outcome publish(std::uint32_t len) noexcept {
    if (data_ == nullptr) return outcome(SQUALL_NOT_RESERVED);
    const std::int64_t ordinal = squall_publish(group_, subgroup_, len);
    if (ordinal != SQUALL_TOO_LONG) data_ = nullptr;
    return outcome(ordinal);
  }
  void abort() noexcept {
    if (data_ != nullptr) squall_abort(group_, subgroup_);
    data_ = nullptr;
  }

 private:
  friend class group_view;
  squall_group_t group_ = 0;
  std::uint32_t subgroup_ = 0;
  std::uint32_t size_ = 0;
  int status_ = SQUALL_NOT_RESERVED;
  void* data_ = nullptr;
};

// What one may do with a group that one does not own: what handlers get.
class group_view {
 public:
  constexpr group_view() noexcept = default;
  constexpr explicit group_view(squall_group_t handle) noexcept : handle_(handle) {}

  outcome send(bytes_view bytes, std::uint32_t subgroup = 0) const noexcept {
    if (bytes.size() > UINT32_MAX) return outcome(SQUALL_TOO_LONG);
    const auto len = static_cast<std::uint32_t>(bytes.size());
    return outcome(squall_send(handle_, subgroup, bytes.data(), len));
  }
  // One message that lies in several pieces, at most 64.
  template <class... Pieces, class = std::enable_if_t<(sizeof...(Pieces) > 0)>>
  outcome send_pieces(std::uint32_t subgroup, const Pieces&... pieces) const noexcept {
    const squall_piece_t all[] = {piece(bytes_view(pieces))...};
    return outcome(squall_sendv(handle_, subgroup, all, sizeof...(Pieces)));
  }
  slot reserve(std::uint32_t len, std::uint32_t subgroup = 0) const noexcept {
    slot lent;
    void* data = nullptr;
    lent.status_ = squall_reserve(handle_, subgroup, len, &data);
    if (lent.status_ == SQUALL_OK) {
      lent.group_ = handle_;
      lent.subgroup_ = subgroup;
      lent.size_ = len;
      lent.data_ = data;
    }
    return lent;
  }
  // Where members change; also from inside a handler.
  outcome leave() const noexcept { return outcome(squall_leave(handle_)); }
  outcome report(std::uint64_t incarnation) const noexcept {
    return outcome(squall_report(handle_, incarnation));
  }
  outcome keep_alive() const noexcept { return outcome(squall_keep_alive(handle_)); }
  outcome rank() const noexcept { return outcome(squall_group_rank(handle_)); }
  outcome members() const noexcept { return outcome(squall_group_members(handle_)); }
  outcome stats(squall_stats_t& stats, std::uint32_t subgroup = 0) const noexcept {
    stats.size = sizeof stats;
    return outcome(squall_stats_get(handle_, subgroup, &stats));
  }
  constexpr squall_group_t handle() const noexcept { return handle_; }

 protected:
  squall_group_t handle_ = 0;

 private:
  static squall_piece_t piece(bytes_view bytes) noexcept { return {bytes.data(), bytes.size()}; }
};

// One subgroup; what is not set is the default.
struct subgroup {
  std::vector<std::uint16_t> members;  // empty: all
  std::vector<std::uint16_t> senders;  // empty: all members, unless `receive_only`
  bool receive_only = false;           // nobody sends
  std::uint32_t mode = SQUALL_MODE_STABLE;
  std::uint32_t lanes = 0;
  std::uint32_t window = 0;
  std::uint32_t message_bytes_max = 0;
  std::uint64_t window_bytes = 0;
};

struct options {
  std::string name;
  std::uint32_t rank = 0;
  std::uint32_t members = 1;
  std::vector<subgroup> subgroups;  // empty: one, of all members
  std::uint32_t idle = SQUALL_IDLE_PARK;
  std::uint32_t flags = 0;
  std::uint32_t core = 0;
  std::chrono::milliseconds open_timeout{0};  // 0: a minute
  std::uint32_t membership = SQUALL_MEMBERSHIP_FIXED;
  std::chrono::milliseconds suspicion{0};  // 0: a second
};

// The attributes of C as they are, for what `options` has no field for; and those of a file. What was
// read is freed with it. Strings and lists of yours that it points to must live until the group is open.
class attributes {
 public:
  explicit attributes() noexcept { squall_group_attr_init(&raw_, sizeof raw_); }
  attributes(attributes&& other) noexcept : attributes() { std::swap(raw_, other.raw_); }
  attributes& operator=(attributes&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  ~attributes() { squall_group_attr_free(&raw_); }

  // Reads a file, then the environment; NULL: the environment only. What was set before stays unless
  // they say otherwise, what is set afterwards wins. Throws `error`, with the line.
  void read(const char* path) {
    const outcome outcome = try_read(path);
    if (!outcome) throw error(outcome.status(), last_error());
  }
  void read(const std::string& path) { read(path.c_str()); }
  // The same without an exception; `last_error()` has the sentence.
  outcome try_read(const char* path) noexcept {
    return outcome(squall_group_attr_read(&raw_, path));
  }
  squall_group_attr_t* operator->() noexcept { return &raw_; }
  const squall_group_attr_t& raw() const noexcept { return raw_; }

 private:
  squall_group_attr_t raw_;
};

// Your functions. `batch` takes precedence over `message`; one of the two must be set.
struct handlers {
  std::function<void(group_view, std::uint32_t subgroup, const squall::message&)> message;
  std::function<void(group_view, std::uint32_t subgroup, const squall_message_t*,
                     std::uint32_t count)>
      batch;
  // Why, which rank is the cause (-1: none), and a sentence.
  std::function<void(group_view, int status, std::int32_t rank, const char*)> stopped;
  // A view begins. With SQUALL_MEMBERSHIP_VIEWS only.
  std::function<void(group_view, const squall_view_t&)> view;
  // A message of mine that no view takes any more.
  std::function<void(group_view, std::uint32_t subgroup, std::uint64_t ordinal, bytes_view,
                     int status)>
      dropped;
};

// An open group. It is closed when it goes out of scope.
class group : public group_view {
 public:
  group() noexcept = default;
  group(group&& other) noexcept
      : group_view(std::exchange(other.handle_, 0)), state_(std::move(other.state_)) {}
  group& operator=(group&& other) noexcept {
    if (this != &other) {
      let_go();
      handle_ = std::exchange(other.handle_, 0);
      state_ = std::move(other.state_);
    }
    return *this;
  }
  ~group() { let_go(); }

  // Opens a group and waits until all its members have. Throws `error`.
  static group open(const options& options, handlers handlers) {
    return open_with(options, std::move(handlers));
  }
  static group open(const attributes& attributes, handlers handlers) {
    return open_with(attributes.raw(), std::move(handlers));
  }
  // The same without an exception: `opened` is replaced on success only; `last_error()` has the
  // sentence.
  static outcome try_open(const options& options, handlers handlers, group& opened) noexcept {
    return try_open_with(options, std::move(handlers), opened);
  }
  static outcome try_open(const attributes& attributes, handlers handlers, group& opened) noexcept {
    return try_open_with(attributes.raw(), std::move(handlers), opened);
  }

  explicit operator bool() const noexcept { return handle_ != 0; }

  // One turn, delivering at most `limit` messages; never blocks. Answers how many were delivered.
  // Rethrows what a handler has thrown.
  outcome poll(std::uint32_t limit = UINT32_MAX) {
    const outcome outcome(squall_poll(handle_, limit));
    rethrow();
    return outcome;
  }
  // Idles as the group's strategy says, at the most so long; negative: for ever.
  outcome wait(std::chrono::milliseconds timeout = std::chrono::milliseconds(-1)) noexcept {
    const auto count = timeout.count();
    const auto most = count > INT32_MAX ? INT32_MAX : count < 0 ? -1 : count;
    return outcome(squall_wait(handle_, static_cast<std::int32_t>(most)));
  }
  // Polls and waits until `until()` is true; the last outcome if that is the group's end. Rethrows.
  template <class Until>
  outcome run(Until until) {
    while (!until()) {
      outcome outcome = poll();
      if (outcome && outcome.value_or(0) == 0) outcome = wait();
      if (!outcome) return outcome;
    }
    return outcome(SQUALL_OK);
  }
  outcome fd() noexcept { return outcome(squall_fd(handle_)); }
  outcome arm() noexcept { return outcome(squall_arm(handle_)); }

  // Throws the first exception that a handler has thrown since the last time, if any.
  void rethrow() {
    if (state_ && state_->failed.load(std::memory_order_acquire)) {
      const std::exception_ptr caught = std::exchange(state_->caught, nullptr);
      state_->failed.store(false, std::memory_order_release);
      std::rethrow_exception(caught);
    }
  }

  // Leaves in good order. From inside a handler it answers SQUALL_REENTRANT and changes nothing.
  outcome close() noexcept {
    const int status = squall_group_close(handle_);
    if (status != SQUALL_REENTRANT) {
      handle_ = 0;
      state_.reset();
    }
    return outcome(status);
  }

 private:
  struct state {
    squall::handlers handlers;
    std::exception_ptr caught;  // belongs to the handlers while `failed` is false
    std::atomic<bool> failed{false};

    template <class Body>
    void guarded(Body body) noexcept {
      try {
        body();
      } catch (...) {
        if (!failed.load(std::memory_order_acquire)) {
          caught = std::current_exception();
          failed.store(true, std::memory_order_release);
        }
      }
    }
  };

  static void on_batch(void* user, squall_group_t handle, std::uint32_t subgroup,
                       const squall_message_t* messages, std::uint32_t count) noexcept {
    state& of = *static_cast<state*>(user);
    if (of.handlers.batch) {
      of.guarded([&] { of.handlers.batch(group_view(handle), subgroup, messages, count); });
      return;
    }
    for (std::uint32_t at = 0; at < count; at++) {
      of.guarded([&] {
        of.handlers.message(group_view(handle), subgroup, squall::message(messages[at]));
      });
    }
  }
  static void on_stopped(void* user, squall_group_t handle, int status, std::int32_t rank,
                         const char* text) noexcept {
    state& of = *static_cast<state*>(user);
    of.guarded([&] { of.handlers.stopped(group_view(handle), status, rank, text); });
  }

  static void on_view(void* user, squall_group_t handle, const squall_view_t* view) noexcept {
    state& of = *static_cast<state*>(user);
    of.guarded([&] { of.handlers.view(group_view(handle), *view); });
  }
  static void on_dropped(void* user, squall_group_t handle, std::uint32_t subgroup,
                         std::uint64_t ordinal, const void* bytes, std::uint32_t len,
                         int status) noexcept {
    state& of = *static_cast<state*>(user);
    of.guarded([&] {
      of.handlers.dropped(group_view(handle), subgroup, ordinal, bytes_view(bytes, len), status);
    });
  }

  // As `close`, but cannot say no: a group that is still in use keeps its handlers for good.
  void let_go() noexcept {
    if (close().status() == SQUALL_REENTRANT) static_cast<void>(state_.release());
  }

  template <class Of>
  static group open_with(const Of& of, handlers&& handlers) {
    group opened;
    const outcome outcome = opened.start(of, std::move(handlers));
    if (!outcome) throw error(outcome.status(), last_error());
    return opened;
  }
  template <class Of>
  static outcome try_open_with(const Of& of, handlers&& handlers, group& opened) noexcept {
    try {
      group fresh;
      const outcome outcome = fresh.start(of, std::move(handlers));
      if (outcome) opened = std::move(fresh);
      return outcome;
    } catch (...) {
      return outcome(SQUALL_NO_MEMORY);
    }
  }

  outcome start(const options& options, handlers&& handlers) {
    std::vector<squall_subgroup_attr_t> subgroups(options.subgroups.size());
    for (std::size_t at = 0; at < subgroups.size(); at++) {
      static const std::uint16_t nobody = 0;
      const subgroup& from = options.subgroups[at];
      squall_subgroup_attr_t& to = subgroups[at];
      squall_subgroup_attr_init(&to, sizeof to);
      to.mode = from.mode;
      to.members = from.members.empty() ? nullptr : from.members.data();
      to.member_count = static_cast<std::uint32_t>(from.members.size());
      to.senders = from.senders.empty() ? nullptr : from.senders.data();
      to.sender_count = static_cast<std::uint32_t>(from.senders.size());
      if (from.receive_only) {
        to.senders = &nobody;
        to.sender_count = 0;
      }
      to.lanes = from.lanes;
      to.window = from.window;
      to.message_bytes_max = from.message_bytes_max;
      to.window_bytes = from.window_bytes;
    }
    squall_group_attr_t attr;
    squall_group_attr_init(&attr, sizeof attr);
    attr.rank = options.rank;
    attr.members = options.members;
    attr.idle = options.idle;
    attr.name = options.name.c_str();
    attr.subgroups = subgroups.empty() ? nullptr : subgroups.data();
    attr.subgroup_count = static_cast<std::uint32_t>(subgroups.size());
    attr.flags = options.flags;
    attr.core = options.core;
    const auto patience = options.open_timeout.count();
    attr.open_timeout_ms = patience > INT32_MAX ? INT32_MAX : static_cast<std::uint32_t>(patience);
    attr.membership = options.membership;
    attr.suspicion_ms = static_cast<std::uint32_t>(options.suspicion.count());
    return start(attr, std::move(handlers));
  }
  outcome start(const squall_group_attr_t& attr, handlers&& handlers) {
    state_ = std::make_unique<state>();
    state_->handlers = std::move(handlers);
    squall_callbacks_t callbacks;
    squall_callbacks_init(&callbacks, sizeof callbacks);
    callbacks.user = state_.get();
    if (state_->handlers.batch || state_->handlers.message) callbacks.deliver = on_batch;
    if (state_->handlers.stopped) callbacks.stopped = on_stopped;
    if (state_->handlers.view) callbacks.view = on_view;
    if (state_->handlers.dropped) callbacks.dropped = on_dropped;
    return outcome(squall_group_open(&attr, &callbacks, &handle_));
  }

  std::unique_ptr<state> state_;
};

}  // namespace squall

#endif  // SQUALL_HPP
