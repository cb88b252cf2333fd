// One pass of a program over a frame.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <stdexcept>

#include "program.hpp"
#include "scratch.hpp"

namespace resq {
namespace {

constexpr int kMostRows = 48;  // that are under way together
constexpr int kMostJoined = 4;
constexpr int kPiece = 256;  // pixels of a transposed convolution that are sorted together
constexpr int kSpare = 12;  // pixels beyond the last that a product may look at
constexpr int kReadRows = 64;  // that are turned into planes together
constexpr size_t kFewValues = 1 << 16;  // are copied by one thread

// Pixels p, p + 1, … of one line, counted over all images; x is the place of p in it, and
// `first` that in a list.
struct Run {
  int32_t first, count, p, line, x;
};

// Up to kMostRows pixels of a tensor, in ascending order, and the runs they are made of.
struct Pixels {
  const int32_t* which;
  int count;

  Pixels(const Tensor& t, const int32_t* which_, int count_) : which(which_), count(count_) {
    if (!count) return;
    int line = which[0] / t.w, start = line * t.w;
    for (int k = 0; k < count;) {
      const int p = which[k];
      while (p >= start + t.w) start += t.w, ++line;
      const int most = std::min(count - k, start + t.w - p);
      int length = 1;
      if (which[k + most - 1] == p + most - 1) length = most;
      else while (which[k + length] == p + length) ++length;
      runs_[n_runs_++] = {k, length, p, line, p - start};
      k += length;
    }
  }

  const Run* begin() const { return runs_; }
  const Run* end() const { return runs_ + n_runs_; }
  bool adjoin() const { return which[count - 1] - which[0] == count - 1; }

 private:
  Run runs_[kMostRows];
  int n_runs_ = 0;
};

// In an order of its own, the same every time.
double sum_of(const std::vector<float>& values) {
  constexpr size_t kParts = 8;
  double parts[kParts] = {};
  const size_t whole = values.size() / kParts * kParts;
  for (size_t i = 0; i < whole; i += kParts)
    for (size_t k = 0; k < kParts; ++k) parts[k] += double(values[i + k]);
  double sum = 0;
  for (size_t i = whole; i < values.size(); ++i) sum += double(values[i]);
  for (double part : parts) sum += part;
  return sum;
}

}  // namespace

Frame::Frame(std::shared_ptr<Program> program, uint8_t* state, const FrameOptions& options,
             std::vector<float> thresholds)
    : program_(std::move(program)),
      state_(state),
      options_(options),
      thresholds_(std::move(thresholds)),
      scratch_(program_->borrow()),
      bindings_(program_->steps_.size()),
      times_(options.timed ? program_->steps_.size() : 0) {
  const Program& p = *program_;
  Scratch& s = *scratch_;
  if (!state_) {
    const size_t bytes = p.state_bytes(options_.reference) + kAlign;
    if (s.state.size() < bytes) s.state.assign(bytes, uint8_t(kZeroCode));
    const size_t at = reinterpret_cast<uintptr_t>(s.state.data()) % kAlign;
    state_ = s.state.data() + (at ? kAlign - at : 0);
  }
  for (Counter& next : s.next) next.value.store(0, std::memory_order_relaxed);
  for (Private& mine : s.privates)
    std::fill(mine.stats.begin(), mine.stats.end(), LayerStats{});
  for (Map& map : s.changed) map.clear();
  for (Map& map : s.active) map.clear();
  for (size_t i = 0; i < p.layers_.size(); ++i) {
    const Layer& layer = p.layers_[i];
    const Tensor& t = p.tensors_[size_t(layer.tensor)];
    if (options_.bits && !options_.anchor)
      s.bits[i].assign(size_t(t.pixels()),
                       uint8_t(options_.refresh ? 0 : layer.quantizers.pool[0].bits));
    if (options_.anchor && options_.keeps) s.norms[i].resize(size_t(t.pixels()));
    if (options_.anchor) {
      uint8_t* codes = state_ + layer.codes;
      for (int plane = 1; plane < layer.quantizers.n_planes; ++plane)
        std::memset(codes + size_t(plane) * layer.plane_bytes, kZeroCode, layer.plane_bytes);
    }
  }
  if (!options_.anchor && options_.reference == Reference::keyframe)
    for (size_t i = 0; i < p.tensors_.size(); ++i)
      if (p.tensors_[i].read)
        s.current[i].resize(size_t(p.tensors_[i].pixels()) * p.tensors_[i].row_bytes());
}

Frame::~Frame() { program_->give_back(std::move(scratch_)); }

void Frame::bind(int step, const float* data, const int64_t strides[4],
                 const std::array<int64_t, 4>& shape) {
  Binding& b = bindings_.at(size_t(step));
  const Tensor& t = program_->tensor(program_->steps_[size_t(step)].out);
  if (shape != std::array<int64_t, 4>{t.n, t.c, t.h, t.w})
    throw std::invalid_argument("an input has another shape than the program was planned for");
  b.data = data;
  std::copy_n(strides, 4, b.strides);
}


class Frame::Worker {
 public:
  Worker(Frame& frame, int rank, int members, Barrier& barrier)
      : frame_(frame),
        program_(*frame.program_),
        kernels_(*program_.kernels_),
        options_(frame.options_),
        state_(frame.state_),
        shared_(*frame.scratch_),
        own_(shared_.privates[size_t(rank)]),
        rank_(rank),
        members_(members),
        barrier_(barrier) {
    overlay_ = !options_.anchor && options_.reference == Reference::keyframe;
    everywhere_ = options_.anchor || options_.look_everywhere;
    const float* norms = reinterpret_cast<const float*>(state_ + program_.norms_);
    policies_.resize(program_.layers_.size());
    if (options_.probe >= 0)
      last_look_ = program_.producer_[size_t(program_.layers_[size_t(options_.probe)].tensor)];
    if (options_.anchor) return;
    for (size_t i = 0; i < policies_.size(); ++i) {
      const double gain = options_.relative ? 1.0 / std::max(double(norms[i]), 1e-12)
                                            : double(program_.layers_[i].weight_norm);
      policies_[i] = {float(gain), frame.thresholds_[i], options_.relative};
    }
  }

  void run(int first, int last) {
    for (int i = first; i < last; ++i) {
      const auto start = now();
      product_ = 0;
      step(i);
      barrier_.wait();
      if (rank_ == 0 && options_.timed) {
        StepTime& time = frame_.times_[size_t(i)];
        time.total += now() - start;
        time.product += product_;
      }
      if (i == last_look_ && too_much()) {
        if (rank_ == 0) frame_.given_up_ = true;
        return;
      }
    }
  }

 private:
  // Every thread sums the same counts, which none of them touches again.
  bool too_much() const {
    int64_t active = 0;
    for (const Private& one : shared_.privates)
      active += one.stats[size_t(options_.probe)].active_in;
    const Tensor& t = program_.tensors_[size_t(program_.layers_[size_t(options_.probe)].tensor)];
    return double(active) > options_.most * double(t.pixels());
  }

  double now() const {
    if (!options_.timed) return 0;
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }

  // The row of a tensor as it is in this frame, in the tensor's own type.
  const uint8_t* stored(int tensor, int p) const {
    const Tensor& t = program_.tensors_[size_t(tensor)];
    const bool current = overlay_ && shared_.changed[size_t(tensor)].bytes[size_t(p)];
    return (current ? shared_.current[size_t(tensor)].data() : base(t)) +
           size_t(p) * t.row_bytes();
  }

  // The same as floats; `room` may serve to hold them.
  const float* row(int tensor, int p, float* room) const {
    return floats(program_.tensors_[size_t(tensor)], stored(tensor, p), room);
  }

  const float* floats(const Tensor& t, const uint8_t* from, float* room) const {
    if (!t.half) return reinterpret_cast<const float*>(from);
    kernels_.load_half(room, reinterpret_cast<const uint16_t*>(from), t.c);
    return room;
  }

  uint8_t* base(const Tensor& t) const { return state_ + t.base[int(options_.reference)]; }

  void keep(int tensor, const Pixels& pixels, const float* rows, int stride) {
    const Tensor& t = program_.tensors_[size_t(tensor)];
    if (t.base[int(options_.reference)] == kNowhere) return;
    uint8_t* to = base(t);
    if (overlay_) {
      if (!t.read) return;
      to = shared_.current[size_t(tensor)].data();
    }
    if (t.planes) return keep_planes(t, pixels, rows, stride, reinterpret_cast<float*>(to));
    const size_t bytes = t.row_bytes();
    for (int k = 0; k < pixels.count; ++k) {
      const float* from = rows + ptrdiff_t(k) * stride;
      uint8_t* out = to + size_t(pixels.which[k]) * bytes;
      if (t.half) kernels_.store_half(reinterpret_cast<uint16_t*>(out), from, t.c);
      else std::memcpy(out, from, bytes);
    }
  }

  void keep_planes(const Tensor& t, const Pixels& pixels, const float* rows, int stride,
                   float* to) {
    const size_t area = size_t(t.h) * t.w;
    for (const Run& run : pixels) {
      const size_t n = t.n == 1 ? 0 : size_t(run.p) / area;
      float* out = to + n * (size_t(t.c) - 1) * area + size_t(run.p);
      kernels_.spread(out, ptrdiff_t(area), rows + ptrdiff_t(run.first) * stride, stride, run.count,
                      t.c);
    }
  }

  // Hands finished rows on.
  void emit(int tensor, const Pixels& pixels, const float* rows, int stride, bool kept = false) {
    const Tensor& t = program_.tensors_[size_t(tensor)];
    if (!pixels.count) return;
    if (t.read && !options_.anchor) {
      Map& map = shared_.changed[size_t(tensor)];
      for (const Run& run : pixels) {
        std::memset(map.bytes.data() + run.p, 1, size_t(run.count));
        map.rows[size_t(run.line)] = 1;
      }
    }
    for (int id : t.sinks) quantize(id, t, pixels, rows, stride);
    if (!kept) keep(tensor, pixels, rows, stride);
  }

  // Where a layer's plane 0 has the first pixel of a run.
  uint8_t* place(const Layer& layer, const Tensor& t, const Run& run) const {
    const int n = t.n == 1 ? 0 : run.line / t.h, y = run.line - n * t.h;
    return state_ + layer.codes +
           ((size_t(n) * layer.padded_h + y + layer.top) * layer.padded_w + run.x + layer.left) *
               layer.stride;
  }

  void quantize(int id, const Tensor& t, const Pixels& pixels, const float* rows, int stride) {
    const Layer& layer = program_.layers_[size_t(id)];
    const Quantizers& q = layer.quantizers;
    const int count = pixels.count;
    uint8_t* first[kMostRows];
    for (const Run& run : pixels) {
      uint8_t* const at = place(layer, t, run);
      for (int i = 0; i < run.count; ++i) first[run.first + i] = at + ptrdiff_t(i) * layer.stride;
    }
    if (options_.anchor) {
      if (options_.keeps && pixels.adjoin()) {
        const int p = pixels.which[0];
        kernels_.quantize_frame(q, rows, stride, count, first,
                                shared_.norms[size_t(id)].data() + p, state_ + layer.pending + p);
        return;
      }
      float norms[kMostRows];
      uint8_t pending[kMostRows];
      kernels_.quantize_frame(q, rows, stride, count, first, norms, pending);
      for (int k = 0; options_.keeps && k < count; ++k) {
        shared_.norms[size_t(id)][size_t(pixels.which[k])] = norms[k];
        state_[layer.pending + size_t(pixels.which[k])] = pending[k];
      }
      return;
    }
    // scattered rows: all on their way before the first is needed
    for (int k = 0; k < count; ++k)
      for (int at = 0; at < layer.stride; at += 64) __builtin_prefetch(first[k] + at, 1);
    Decision decisions[kMostRows];
    if (options_.refresh) {
      kernels_.refresh(q, rows, stride, count, first, decisions);
    } else {
      const float* against[kMostRows];
      const bool tracks = options_.reference == Reference::tracking;
      for (int k = 0; !tracks && k < count; ++k)
        against[k] = floats(t, base(t) + size_t(pixels.which[k]) * t.row_bytes(),
                            own_.against.data() + size_t(k) * t.c);
      kernels_.quantize_residual(q, policies_[size_t(id)], rows, stride, count,
                                 tracks ? nullptr : against, first, layer.plane_bytes,
                                 own_.delta.data(), decisions);
    }
    for (const Run& run : pixels)
      for (int i = 0; i < run.count; ++i)
        note(id, run.p + i, run.line, decisions[run.first + i]);
  }

  // Remembers what became of a pixel of a layer's input.
  void note(int id, int pixel, int line, const Decision& d) {
    const Layer& layer = program_.layers_[size_t(id)];
    LayerStats& stats = own_.stats[size_t(id)];
    const size_t p = size_t(pixel);
    ++stats.counts[d.index];
    stats.clipped += d.clipped;
    state_[layer.pending + p] = uint8_t(d.pending * kPending | d.stale * kStale);
    if (options_.bits && !options_.refresh)
      shared_.bits[size_t(id)][p] = uint8_t(layer.quantizers.pool[d.index].bits);
    if (!d.active) return;
    if (options_.bits && options_.refresh)
      shared_.bits[size_t(id)][p] = uint8_t(layer.quantizers.frame_bits);
    ++stats.active_in;
    Map& map = shared_.active[size_t(id)];
    map.bytes[p] = 1;
    map.rows[size_t(line)] = 1;
  }

  // Post-operations [from, to) on rows of pixels; `stride` floats from one to the next.
  void post(const Step& s, int from, int to, const Pixels& pixels, float* rows, int stride,
            int channels) {
    const int count = pixels.count;
    for (int i = from; i < to; ++i) {
      const PostOp& op = s.post[size_t(i)];
      switch (op.kind) {
        case Post::relu:
          kernels_.relu(rows, (count - 1) * stride + channels);
          break;
        case Post::clamp:
          kernels_.clamp(rows, (count - 1) * stride + channels, op.low, op.high);
          break;
        case Post::affine:
          for (int k = 0; k < count; ++k)
            kernels_.affine(rows + size_t(k) * stride, op.weight.data(), op.bias.data(), channels);
          break;
        case Post::half:
          kernels_.round_half(rows, (count - 1) * stride + channels);
          break;
        case Post::add: {
          const bool half = program_.tensors_[size_t(op.tensor)].half;
          for (int k = 0; k < count; ++k) {
            float* x = rows + size_t(k) * stride;
            const uint8_t* y = stored(op.tensor, pixels.which[k]);
            if (half) kernels_.add_half(x, reinterpret_cast<const uint16_t*>(y), channels);
            else kernels_.add(x, reinterpret_cast<const float*>(y), channels);
          }
          break;
        }
      }
    }
  }

  // ------------------------------------------------------------ which pixels

  // Every thread marks and lists the pixels of its own lines of a tensor.
  struct Lines {
    int from, to;
  };

  Lines lines_of(const Tensor& t) const {
    const int64_t all = int64_t(t.n) * t.h;
    return {int(all * rank_ / members_), int(all * (rank_ + 1) / members_)};
  }

  void mark_operands(const Step& s, const Tensor& t, const Lines& mine, uint8_t* map) {
    for (const PostOp& op : s.post)
      if (op.kind == Post::add) merge_map(shared_.changed[size_t(op.tensor)], t, mine, map);
  }

  void merge_map(const Map& from, const Tensor& t, const Lines& mine, uint8_t* map) {
    for (int y = mine.from; y < mine.to; ++y)
      if (from.rows[size_t(y)])
        kernels_.merge(map + size_t(y) * t.w, from.bytes.data() + size_t(y) * t.w, t.w);
  }

  void mark_pending(const Tensor& t, const Lines& mine, uint8_t* map) {
    if (options_.reference != Reference::tracking) return;
    const uint8_t bits = options_.refresh ? kPending | kStale : kPending;
    const size_t start = size_t(mine.from) * t.w;
    for (int id : t.sinks)
      kernels_.merge_bits(map + start,
                          state_ + program_.layers_[size_t(id)].pending + start, bits,
                          (mine.to - mine.from) * t.w);
  }

  // Lists what is marked, as list `which`, for all threads to take from.
  void list(const uint8_t* map, const Tensor& t, const Lines& mine, int which) {
    const int start = mine.from * t.w, n = (mine.to - mine.from) * t.w;
    std::vector<int32_t>& out = own_.listed[which];
    if (out.size() < size_t(n) + 16) out.resize(size_t(n) + 16);
    own_.count[which] = kernels_.compress(map + start, n, start, out.data());
  }

  // The map with the own lines cleared.
  static uint8_t* cleared(std::vector<uint8_t>& map, const Tensor& t, const Lines& mine) {
    if (map.size() < size_t(t.pixels())) map.resize(size_t(t.pixels()));
    std::memset(map.data() + size_t(mine.from) * t.w, 0, size_t(mine.to - mine.from) * t.w);
    return map.data();
  }

  // A window that slides over an input: tap (dy, dx) of output (j·out_y + first_y,
  // i·out_x + first_x) reads input (j·in_y + dy − top, i·in_x + dx − left).
  struct Window {
    const std::vector<int>&dy, &dx;
    int top, left, in_y, in_x;
    int out_y = 1, out_x = 1, first_y = 0, first_x = 0;
  };

  // Marks the output pixels of a window that reads a marked input pixel.
  void dilate(const Map& from, const Tensor& in, const Window& w, const Tensor& t,
              const Lines& mine, uint8_t* map) {
    own_.line.resize(size_t(in.w));
    const int columns = (t.w - w.first_x + w.out_x - 1) / w.out_x;
    for (int out_line = mine.from; out_line < mine.to; ++out_line) {
      const int n = out_line / t.h, out_row = out_line % t.h - w.first_y;
      if (out_row < 0 || out_row % w.out_y) continue;
      const int start = out_row / w.out_y * w.in_y - w.top;
      bool any = false;
      for (int d : w.dy) {
        const int y = start + d;
        if (y < 0 || y >= in.h || !from.rows[size_t(n * in.h + y)]) continue;
        const uint8_t* line = from.bytes.data() + size_t(n * in.h + y) * in.w;
        if (!any) std::memcpy(own_.line.data(), line, size_t(in.w));
        else kernels_.merge(own_.line.data(), line, in.w);
        any = true;
      }
      if (!any) continue;
      uint8_t* out = map + size_t(out_line) * t.w + w.first_x;
      for (int d : w.dx) {
        // i·in_x + d − left in [0, w)
        const int shift = d - w.left;
        const int i0 = shift < 0 ? (-shift + w.in_x - 1) / w.in_x : 0;
        const int i1 = shift >= in.w ? 0 : std::min(columns, (in.w - 1 - shift) / w.in_x + 1);
        if (i1 <= i0) continue;
        const uint8_t* line = own_.line.data() + shift + i0 * w.in_x;
        if (w.out_x == 1) {
          kernels_.merge_every(out + i0, line, w.in_x, i1 - i0);
        } else {
          for (int i = i0; i < i1; ++i) out[i * w.out_x] |= line[(i - i0) * w.in_x];
        }
      }
    }
  }

  // ------------------------------------------------------------ steps

  // A step takes from all threads' lists and changes what lists are made of: none may go on
  // before all have theirs. Returns how long they are together.
  int agree(int which) {
    barrier_.wait();
    return together(which);
  }

  int together(int which) const {
    int n = 0;
    for (int i = 0; i < members_; ++i) n += shared_.privates[size_t(i)].count[which];
    return n;
  }

  // Pixels [first, first + count) of all threads' lists, one after the other.
  void take(int which, int first, int count, int32_t* to) const {
    for (int i = 0; i < members_ && count > 0; ++i) {
      const Private& theirs = shared_.privates[size_t(i)];
      const int here = std::min(count, theirs.count[which] - first);
      if (here > 0) {
        std::memcpy(to, theirs.listed[which].data() + first, size_t(here) * sizeof(int32_t));
        to += here, count -= here;
      }
      first = std::max(0, first - theirs.count[which]);
    }
  }

  // Takes pieces of a list until it is used up: first from this thread's own part, which covers
  // the same part of the picture in every step, so that a core reads what it wrote itself; then
  // what others have left.
  template <typename Work>
  void share(int step, int which, int total, int piece, const Work& work) {
    if (total <= 0) return;
    Counter* next = &shared_.next[(size_t(step) * 2 + size_t(which)) * kMostMembers];
    const int pieces = (total + piece - 1) / piece;
    for (int turn = 0; turn < members_; ++turn) {
      const int owner = (rank_ + turn) % members_;
      const int start = int(int64_t(pieces) * owner / members_);
      const int end = int(int64_t(pieces) * (owner + 1) / members_);
      for (;;) {
        const int taken = start + next[owner].value.fetch_add(1, std::memory_order_relaxed);
        if (taken >= end) break;
        work(taken * piece, std::min(piece, total - taken * piece));
      }
    }
  }

  int piece_of(int total, int unit, int most) const {
    const int even = (total + 4 * members_ - 1) / (4 * members_);
    return std::max(unit, std::min(most, (even + unit - 1) / unit * unit));
  }

  void step(int index) {
    const Step& s = program_.steps_[size_t(index)];
    if (s.op == Op::conv) return conv(index, s);
    if (s.op == Op::import) return import(index, s);
    const Tensor& t = program_.tensors_[size_t(s.out)];
    const int pixels = t.pixels();
    int total = pixels;
    if (!everywhere_) {
      const Lines mine = lines_of(t);
      uint8_t* map = cleared(own_.map, t, mine);
      mark_inputs(s, t, mine, map);
      mark_operands(s, t, mine, map);
      mark_pending(t, mine, map);
      list(map, t, mine, 0);
      total = agree(0);
    }
    const int stride = int(round_up(size_t(t.c), kLanes));
    constexpr int kMost = kMostRows;
    own_.rows.resize(std::max(own_.rows.size(), size_t(kMost) * stride));
    share(index, 0, total, piece_of(total, 1, kMost), [&](int first, int count) {
      int32_t which[kMost];
      choose(0, everywhere_, first, count, which);
      for (int k = 0; k < count; ++k)
        compute(s, t, which[k], own_.rows.data() + size_t(k) * stride);
      finish_rows(s, 0, {t, which, count}, own_.rows.data(), stride, t.c);
    });
  }

  // half, additions of halves, relu or not, half: the end of a residual block, in one pass. Or
  // half alone.
  bool joins(const Step& s, int from, bool with_raw) const {
    const int n = int(s.post.size());
    const Tensor& t = program_.tensors_[size_t(s.out)];
    if (!t.half || n == from || s.post[size_t(from)].kind != Post::half) return false;
    if (n - from == 1) return !with_raw;
    if (n - from < 3) return false;
    if (s.post[size_t(n - 1)].kind != Post::half) return false;
    if (with_raw && (s.raw_post != from + 1 || !program_.tensors_[size_t(s.raw)].half)) return false;
    int adds = 0;
    for (int i = from + 1; i < n - 1; ++i) {
      const PostOp& op = s.post[size_t(i)];
      if (op.kind == Post::relu && i == n - 2) continue;
      if (op.kind != Post::add || !program_.tensors_[size_t(op.tensor)].half) return false;
      ++adds;
    }
    return adds > 0 && adds <= kMostJoined;
  }

  uint8_t* destination(int tensor) const {
    const Tensor& t = program_.tensors_[size_t(tensor)];
    if (t.base[int(options_.reference)] == kNowhere) return nullptr;
    if (!overlay_) return base(t);
    return t.read ? shared_.current[size_t(tensor)].data() : nullptr;
  }

  void join(const Step& s, int from, bool with_raw, const Pixels& pixels, float* rows, int stride,
            int channels) {
    const int32_t* which = pixels.which;
    const int count = pixels.count;
    uint16_t *raws[kMostRows], *outs[kMostRows];
    const uint16_t* others[kMostJoined * kMostRows];
    const size_t bytes = size_t(channels) * 2;
    const auto point = [&](int tensor, uint16_t** to) {
      uint8_t* start = tensor < 0 ? nullptr : destination(tensor);
      for (int k = 0; start && k < count; ++k) {
        to[k] = reinterpret_cast<uint16_t*>(start + size_t(which[k]) * bytes);
        __builtin_prefetch(to[k], 1);
      }
      return start ? to : nullptr;
    };
    uint16_t* const* raw = point(with_raw ? s.raw : -1, raws);
    int n = 0;
    bool relu = false;
    for (size_t i = size_t(from) + 1; i + 1 < s.post.size(); ++i) {
      relu |= s.post[i].kind == Post::relu;
      if (s.post[i].kind != Post::add) continue;
      for (int k = 0; k < count; ++k) {
        others[n * count + k] =
            reinterpret_cast<const uint16_t*>(stored(s.post[i].tensor, which[k]));
        __builtin_prefetch(others[n * count + k]);
      }
      ++n;
    }
    // in place only after the sinks have seen the row before it
    const bool early = options_.reference != Reference::previous || options_.anchor;
    uint16_t* const* out = point(early ? s.out : -1, outs);
    kernels_.join({rows, stride, count, channels, raw, others, n, relu, out});
    emit(s.out, pixels, rows, stride, out != nullptr);
  }

  void finish_rows(const Step& s, int from, const Pixels& pixels, float* rows, int stride,
                   int channels) {
    if (joins(s, from, false)) return join(s, from, false, pixels, rows, stride, channels);
    post(s, from, int(s.post.size()), pixels, rows, stride, channels);
    emit(s.out, pixels, rows, stride);
  }

  void choose(int which, bool all, int first, int count, int32_t* to) const {
    if (!all) return take(which, first, count, to);
    for (int k = 0; k < count; ++k) to[k] = first + k;
  }

  void mark_inputs(const Step& s, const Tensor& t, const Lines& mine, uint8_t* map) {
    for (int id : s.inputs) {
      const Map& from = shared_.changed[size_t(id)];
      const Tensor& in = program_.tensors_[size_t(id)];
      switch (s.op) {
        case Op::copy:
        case Op::concat:
          merge_map(from, t, mine, map);
          break;
        case Op::bilinear:
        case Op::nearest: {
          own_.line.resize(size_t(in.w));
          for (int line = mine.from; line < mine.to; ++line) {
            const int n = line / t.h, y = line % t.h;
            const int a = n * in.h + s.y0[size_t(y)], b = n * in.h + s.y1[size_t(y)];
            if (!from.rows[size_t(a)] && !from.rows[size_t(b)]) continue;
            std::memcpy(own_.line.data(), from.bytes.data() + size_t(a) * in.w, size_t(in.w));
            kernels_.merge(own_.line.data(), from.bytes.data() + size_t(b) * in.w, in.w);
            uint8_t* out = map + size_t(line) * t.w;
            for (int x = 0; x < t.w; ++x)
              out[x] |= uint8_t(own_.line[size_t(s.x0[size_t(x)])] |
                                own_.line[size_t(s.x1[size_t(x)])]);
          }
          break;
        }
        case Op::average:
        case Op::maximum: {
          std::vector<int> dy(size_t(s.kernel_h)), dx(size_t(s.kernel_w));
          for (int i = 0; i < s.kernel_h; ++i) dy[size_t(i)] = i;
          for (int i = 0; i < s.kernel_w; ++i) dx[size_t(i)] = i;
          dilate(from, in, {dy, dx, s.pad_h, s.pad_w, s.stride_h, s.stride_w}, t, mine, map);
          break;
        }
        case Op::mean:
          for (int n = mine.from; n < mine.to; ++n)  // one line an image
            for (int y = 0; y < in.h; ++y)
              if (from.rows[size_t(n * in.h + y)]) map[n] = 1;
          break;
        default:
          break;
      }
    }
  }

  // One row of a step that is not a convolution, before its post-operations.
  void compute(const Step& s, const Tensor& t, int p, float* out) {
    const int input = s.inputs[0];
    const Tensor& in = program_.tensors_[size_t(input)];
    const int y = p / t.w % t.h, n = p / (t.w * t.h), x = p % t.w;
    const size_t width = round_up(size_t(program_.widest_), kLanes);
    const auto at = [&](int yy, int xx, size_t slot = 0) {
      return row(input, (n * in.h + yy) * in.w + xx, own_.room.data() + slot * width);
    };
    const auto copy = [&](int id, int from, float* to) {
      const float* v = row(id, from, to);
      const size_t bytes = size_t(program_.tensors_[size_t(id)].c) * sizeof(float);
      if (v != to) std::memcpy(to, v, bytes);
    };
    switch (s.op) {
      case Op::copy:
        copy(input, p, out);
        break;
      case Op::concat: {
        for (int id : s.inputs) {
          const int c = program_.tensors_[size_t(id)].c;
          copy(id, p, out);
          out += c;
        }
        break;
      }
      case Op::nearest:
        copy(input, (n * in.h + s.y0[size_t(y)]) * in.w + s.x0[size_t(x)], out);
        break;
      case Op::bilinear: {
        const int y0 = s.y0[size_t(y)], y1 = s.y1[size_t(y)];
        const int x0 = s.x0[size_t(x)], x1 = s.x1[size_t(x)];
        const float weights[4] = {s.wx0[size_t(x)], s.wx1[size_t(x)], s.wy0[size_t(y)],
                                  s.wy1[size_t(y)]};
        if (in.half) {
          const auto half = [&](int yy, int xx) {
            return reinterpret_cast<const uint16_t*>(stored(input, (n * in.h + yy) * in.w + xx));
          };
          const uint16_t* rows[4] = {half(y0, x0), half(y0, x1), half(y1, x0), half(y1, x1)};
          kernels_.blend_half(out, rows, weights, t.c);
          break;
        }
        const float* rows[4] = {at(y0, x0, 0), at(y0, x1, 1), at(y1, x0, 2), at(y1, x1, 3)};
        kernels_.blend(out, rows, weights, t.c);
        break;
      }
      case Op::average:
      case Op::maximum: {
        const int top = y * s.stride_h - s.pad_h, left = x * s.stride_w - s.pad_w;
        const int bottom = std::min(top + s.kernel_h, in.h + s.pad_h);
        const int right = std::min(left + s.kernel_w, in.w + s.pad_w);
        const int y0 = std::max(top, 0), x0 = std::max(left, 0);
        const int y1 = std::min(bottom, in.h), x1 = std::min(right, in.w);
        const bool average = s.op == Op::average;
        std::fill_n(out, t.c, average ? 0.0f : -std::numeric_limits<float>::infinity());
        for (int yy = y0; yy < y1; ++yy)
          for (int xx = x0; xx < x1; ++xx)
            (average ? kernels_.add : kernels_.maximum)(out, at(yy, xx), t.c);
        if (average) {
          const int area = s.count_pad ? (bottom - top) * (right - left) : (y1 - y0) * (x1 - x0);
          kernels_.divide(out, float(area), t.c);
        }
        break;
      }
      case Op::mean: {
        std::vector<double> total(size_t(t.c), 0.0);
        for (int i = 0; i < in.h * in.w; ++i) {
          const float* v = row(input, n * in.h * in.w + i, own_.room.data());
          for (int c = 0; c < t.c; ++c) total[size_t(c)] += double(v[c]);
        }
        for (int c = 0; c < t.c; ++c) out[c] = float(total[size_t(c)] / (in.h * in.w));
        break;
      }
      default:
        break;
    }
  }

  // Data from outside: every pixel is looked at.
  void import(int index, const Step& s) {
    const Tensor& t = program_.tensors_[size_t(s.out)];
    const Binding& from = frame_.bindings_[size_t(index)];
    const bool thin = !t.read && t.c <= 4 && t.sinks.size() == 1 &&
                      options_.reference == Reference::tracking &&
                      program_.layers_[size_t(t.sinks[0])].quantizers.n_planes == 1 &&
                      from.strides[3] == 1;
    share(index, 0, t.n * t.h, piece_of(t.n * t.h, 1, 16), [&](int first, int count) {
      for (int line = first; line < first + count; ++line) {
        const float* source =
            from.data + line / t.h * from.strides[0] + line % t.h * from.strides[2];
        if (thin) import_thin(t, line, source, from);
        else import_line(s, t, line, source, from);
      }
    });
  }

  void import_thin(const Tensor& t, int line, const float* source, const Binding& from) {
    const int id = t.sinks[0];
    const Layer& layer = program_.layers_[size_t(id)];
    const float* channels[4];
    for (int c = 0; c < t.c; ++c) channels[c] = source + c * from.strides[1];
    uint8_t* codes = place(layer, t, {0, t.w, line * t.w, line, 0});
    if (options_.anchor) {
      own_.rows.resize(std::max(own_.rows.size(), size_t(t.w)));
      own_.line.resize(size_t(t.w));
      float* norms = options_.keeps ? shared_.norms[size_t(id)].data() + size_t(line) * t.w
                                    : own_.rows.data();
      uint8_t* pending =
          options_.keeps ? state_ + layer.pending + size_t(line) * t.w : own_.line.data();
      kernels_.thin_frame(layer.quantizers, channels, t.w, codes, norms, pending);
      return;
    }
    own_.decisions.resize(size_t(t.w));
    uint8_t* marks = state_ + layer.pending + size_t(line) * t.w;
    const int listed =
        options_.refresh
            ? kernels_.thin_refresh(layer.quantizers, channels, t.w, codes, marks,
                                    own_.decisions.data())
            : kernels_.thin_quantize(layer.quantizers, policies_[size_t(id)], channels, t.w, codes,
                                     marks, own_.decisions.data());
    for (int i = 0; i < listed; ++i)
      note(id, line * t.w + own_.decisions[size_t(i)].pixel, line,
           own_.decisions[size_t(i)].decision);
  }

  void import_line(const Step& s, const Tensor& t, int line, const float* source,
                   const Binding& from) {
    const int stride = int(round_up(size_t(t.c), kLanes));
    own_.rows.resize(std::max(own_.rows.size(), size_t(kMostRows) * stride));
    for (int first = 0; first < t.w; first += kMostRows) {
      const int count = std::min(kMostRows, t.w - first);
      int32_t which[kMostRows], stays[kMostRows];
      int moved = 0, still = 0;
      for (int k = 0; k < count; ++k) {
        const int p = line * t.w + first + k;
        float* x = own_.rows.data() + size_t(moved) * stride;
        const float* pixel = source + (first + k) * from.strides[3];
        for (int c = 0; c < t.c; ++c) x[c] = pixel[c * from.strides[1]];
        // a value that stays is only judged again
        if (t.read && !options_.anchor && same(t, p, x)) stays[still++] = p;
        else which[moved++] = p;
      }
      emit(s.out, {t, which, moved}, own_.rows.data(), stride);
      for (int k = 0; k < still; ++k) {
        const Pixels one(t, stays + k, 1);
        for (int id : t.sinks)
          quantize(id, t, one, reinterpret_cast<const float*>(base(t)) + size_t(stays[k]) * t.c,
                   t.c);
      }
    }
  }

  bool same(const Tensor& t, int p, const float* x) const {
    return !std::memcmp(base(t) + size_t(p) * t.row_bytes(), x, t.row_bytes());
  }

  void conv(int index, const Step& s) {
    const Layer& layer = program_.layers_[size_t(s.layer)];
    const Tensor& in = program_.tensors_[size_t(layer.tensor)];
    const Tensor& t = program_.tensors_[size_t(s.out)];
    const int pixels = t.pixels();
    int n_first = pixels, n_second = 0;
    if (!options_.anchor) {
      const Lines mine = lines_of(t);
      uint8_t* map = cleared(own_.map, t, mine);
      const Map& active = shared_.active[size_t(s.layer)];
      for (const Phase& f : layer.phases)
        dilate(active, in,
               {f.dy, f.dx, layer.top, layer.left, f.in_y, f.in_x, f.out_y, f.out_x, f.first_y,
                f.first_x},
               t, mine, map);
      list(map, t, mine, 0);
      own_.stats[size_t(s.layer)].active_out = own_.count[0];
      if (!options_.look_everywhere) {
        // what else changes the result: the other operands, and pixels to be looked at again
        uint8_t* rest = cleared(own_.rest, t, mine);
        mark_operands(s, t, mine, rest);
        mark_pending(t, mine, rest);
        if (s.raw < 0) {
          const size_t start = size_t(mine.from) * t.w;
          kernels_.merge(map + start, rest + start, (mine.to - mine.from) * t.w);
          list(map, t, mine, 0);
          own_.count[1] = 0;
        } else {
          for (int i = 0; i < own_.count[0]; ++i) rest[own_.listed[0][size_t(i)]] = 0;
          list(rest, t, mine, 1);
        }
        n_first = agree(0);
        n_second = together(1);
      }
    }
    if (options_.timed && rank_ == 0) frame_.times_[size_t(index)].pixels += n_first;
    const int stride = int(round_up(size_t(t.c), kLanes)) + kLanes;
    constexpr int kMost = kMostRows;
    own_.rows.resize(std::max(own_.rows.size(), size_t(kMost + kSpare) * stride));
    const bool dense = n_first == pixels;
    const int unit = layer.depthwise ? 1 : kernels_.tile(widest(layer));
    if (layer.phases.size() == 1) {
      share(index, 0, n_first, piece_of(n_first, unit, kMost / unit * unit),
            [&](int first, int count) {
              int32_t which[kMost];
              choose(0, dense, first, count, which);
              convolve(s, layer, t, layer.phases[0], which, count, stride);
            });
    } else if (dense && layer.tiled && s.raw < 0 && layer.phases[0].out_x <= kMostRows) {
      const int cells = pixels / int(layer.phases.size());
      share(index, 0, cells, kMostRows / layer.phases[0].out_x,
            [&](int first, int count) { convolve_cells(s, layer, t, first, count); });
    } else {
      const int columns = layer.phases[0].out_x;
      share(index, 0, n_first, kPiece, [&](int first, int count) {
        int32_t which[kPiece], sorted[kPiece];
        choose(0, dense, first, count, which);
        const int32_t* starts = by_phase(layer.phases[0], t, which, count, sorted);
        for (const Phase& f : layer.phases) {
          const int32_t* from = starts + f.first_y * columns + f.first_x;
          for (int k = from[0]; k < from[1]; k += kMost)
            convolve(s, layer, t, f, sorted + k, std::min(kMost, from[1] - k), stride);
        }
      });
    }
    share(index, 1, n_second, piece_of(n_second, 1, kMost), [&](int first, int count) {
      int32_t which[kMost];
      take(1, first, count, which);
      const Tensor& raw = program_.tensors_[size_t(s.raw)];
      for (int k = 0; k < count; ++k) {
        float* to = own_.rows.data() + size_t(k) * stride;
        const float* v = floats(raw, base(raw) + size_t(which[k]) * raw.row_bytes(), to);
        if (v != to) std::memcpy(to, v, size_t(t.c) * sizeof(float));
      }
      finish_rows(s, s.raw_post, {t, which, count}, own_.rows.data(), stride, t.c);
    });
  }

  // Ascending pixels of a transposed convolution, sorted by their places within a stride: those
  // of place (y, x) are from the result's entry y·out_x + x on, up to the next one's.
  const int32_t* by_phase(const Phase& f, const Tensor& t, const int32_t* which, int count,
                          int32_t* sorted) {
    int32_t cells[kPiece];
    std::vector<int32_t>& ends = own_.ends;
    ends.assign(size_t(f.out_y) * f.out_x + 1, 0);
    for (int k = 0; k < count; ++k) {
      cells[k] = which[k] / t.w % t.h % f.out_y * f.out_x + which[k] % t.w % f.out_x;
      ++ends[size_t(cells[k]) + 1];
    }
    for (size_t i = 1; i < ends.size(); ++i) ends[i] += ends[i - 1];
    for (int k = count; k-- > 0;) sorted[--ends[size_t(cells[k]) + 1]] = which[k];
    // every end has moved down to its start
    ends.push_back(count);
    return ends.data() + 1;
  }

  // All outputs of input pixels [first, first + count) of a transposed convolution whose windows
  // lie side by side, a line of outputs after the other.
  void convolve_cells(const Step& s, const Layer& layer, const Tensor& t, int first, int count) {
    const Phase& any = layer.phases[0];
    const int width = int(round_up(size_t(t.c), kLanes)), stride = any.out_x * width;
    const int columns = t.w / any.out_x, area = t.h / any.out_y * columns;
    own_.rows.resize(std::max(own_.rows.size(), size_t(count + kSpare) * size_t(stride)));
    float* rows = own_.rows.data();
    const uint8_t* start[kMostRows];
    int32_t corner[kMostRows];  // the first output of each
    for (int k = 0; k < count; ++k) {
      const int n = (first + k) / area, y = (first + k) % area / columns, x = (first + k) % columns;
      start[k] = state_ + layer.codes +
                 ((size_t(n) * layer.padded_h + size_t(y) * any.in_y) * layer.padded_w +
                  size_t(x) * any.in_x) *
                     layer.stride;
      corner[k] = (n * t.h + y * any.out_y) * t.w + x * any.out_x;
    }
    const std::vector<Segment>& segments = any.segments[0];
    const int last = options_.anchor ? 0 : layer.quantizers.n_planes - 1;
    for (int line = 0; line < any.out_y; ++line) {
      const double began = now();
      for (int plane = 0; plane <= last; ++plane) {
        const uint8_t* base[kMostRows + kSpare];
        for (int k = 0; k < count + kSpare; ++k)
          base[k] = start[std::min(k, count - 1)] + size_t(plane) * layer.plane_bytes;
        own_.blocks.clear();
        for (const Phase& f : layer.phases)
          for (const Block& b : f.blocks[size_t(plane)])
            if (f.first_y == line) own_.blocks.push_back(as_given(b, plane, f.first_x * width));
        kernels_.gemm({base, count, segments.data(), int(segments.size()), own_.blocks.data(),
                       int(own_.blocks.size()), rows, stride, plane > 0, false});
      }
      product_ += now() - began;
      int32_t which[kMostRows];
      for (int k = 0; k < count; ++k)
        for (int x = 0; x < any.out_x; ++x)
          which[k * any.out_x + x] = corner[k] + line * t.w + x;
      finish_rows(s, 0, {t, which, count * any.out_x}, rows, width, t.c);
    }
  }

  static GemmBlock as_given(const Block& b, int plane, int from) {
    return {from + b.first, b.vectors, b.packed.data(), b.init.data(), b.multiplier.data(),
            plane || b.bias.empty() ? nullptr : b.bias.data()};
  }

  static int widest(const Layer& layer) {
    int most = 1;
    for (const Block& b : layer.phases[0].blocks[0]) most = std::max(most, b.vectors);
    return most;
  }

  void convolve(const Step& s, const Layer& layer, const Tensor& t, const Phase& f,
                const int32_t* which, int count, int stride) {
    const uint8_t* base[64];
    float* rows = own_.rows.data();
    const Pixels pixels(t, which, count);
    for (const Run& run : pixels) {
      const int n = t.n == 1 ? 0 : run.line / t.h, y = (run.line - n * t.h) / f.out_y;
      const uint8_t* line =
          state_ + layer.codes +
          (size_t(n) * layer.padded_h + size_t(y) * f.in_y) * layer.padded_w * layer.stride;
      const ptrdiff_t step = ptrdiff_t(f.in_x) * layer.stride;
      const uint8_t** to = base + run.first;
      if (f.out_x == 1)
        for (int i = 0; i < run.count; ++i) to[i] = line + (run.x + i) * step;
      else
        for (int i = 0; i < run.count; ++i) to[i] = line + (run.x + i) / f.out_x * step;
    }
    for (int k = count; k < count + kSpare && k < 64; ++k) base[k] = base[count - 1];
    const double start = now();
    // a keyframe has nothing in the other planes
    const int last = options_.anchor ? 0 : layer.quantizers.n_planes - 1;
    // a group's vectors reach into the next group's channels, whose planes are not all added up yet
    const bool whole = last == 0 || f.segments.size() == 1;
    const bool relu =
        whole && !layer.depthwise && !s.post.empty() && s.post[0].kind == Post::relu;
    for (int plane = 0; plane <= last; ++plane) {
      if (layer.depthwise) {
        for (int k = 0; k < count; ++k)
          kernels_.depthwise({base[k], layer.offsets.data(), int(layer.offsets.size()),
                              layer.dw_weights[size_t(plane)].data(),
                              layer.dw_multiplier[size_t(plane)].data(),
                              plane || layer.dw_bias.empty() ? nullptr : layer.dw_bias.data(),
                              rows + size_t(k) * stride, t.c, plane > 0});
      } else {
        multiply(f, plane, base, count, rows, stride, relu && plane == last);
      }
      for (int k = 0; k < count; ++k) base[k] += layer.plane_bytes;
      for (int k = count; k < count + kSpare && k < 64; ++k) base[k] = base[count - 1];
    }
    product_ += now() - start;
    if (s.raw < 0) return finish_rows(s, relu, pixels, rows, stride, t.c);
    if (joins(s, 0, true)) return join(s, 0, true, pixels, rows, stride, t.c);
    post(s, relu, s.raw_post, pixels, rows, stride, t.c);
    keep(s.raw, pixels, rows, stride);
    finish_rows(s, s.raw_post, pixels, rows, stride, t.c);
  }

  // One plane's product; blocks of the same channels of codes go together.
  void multiply(const Phase& f, int plane, const uint8_t* const* base, int count, float* rows,
                int stride, bool relu) {
    const std::vector<Block>& all = f.blocks[size_t(plane)];
    for (size_t i = 0; i < all.size();) {
      const std::vector<Segment>& segments = f.segments[size_t(all[i].segments)];
      own_.blocks.clear();
      for (const int same = all[i].segments; i < all.size() && all[i].segments == same; ++i)
        own_.blocks.push_back(as_given(all[i], plane, 0));
      kernels_.gemm({base, count, segments.data(), int(segments.size()), own_.blocks.data(),
                     int(own_.blocks.size()), rows, stride, plane > 0, relu});
    }
  }

  Frame& frame_;
  const Program& program_;
  const Kernels& kernels_;
  const FrameOptions& options_;
  uint8_t* state_;
  Scratch& shared_;
  Private& own_;
  const int rank_, members_;
  Barrier& barrier_;
  bool overlay_ = false, everywhere_ = false;
  int last_look_ = -1;  // the step after which the probe is looked at
  std::vector<Policy> policies_;
  double product_ = 0;
};

bool Frame::run(int first, int last) {
  const Program& p = *program_;
  if (first < 0 || last > p.n_steps() || first > last)
    throw std::out_of_range("steps out of range");
  for (int i = first; i < last; ++i)
    if (p.steps_[size_t(i)].op == Op::import && !bindings_[size_t(i)].data)
      throw std::logic_error("an input was not bound");
  const size_t width = round_up(size_t(p.widest_), kLanes);
  Team::run(
      std::min(options_.threads, kMostMembers),
      [&](int members) {
        std::vector<Private>& privates = scratch_->privates;
        if (privates.size() < size_t(members)) privates.resize(size_t(members));
        for (Private& mine : privates) {
          mine.stats.resize(p.layers_.size());
          mine.delta.resize(4 * width);
          mine.against.resize(kMostRows * width);
          mine.room.resize(4 * width);
        }
      },
      [&](int rank, Barrier& barrier) {
        Worker worker(*this, rank, barrier.members(), barrier);
        worker.run(first, last);
      });
  return !given_up_;
}

void Frame::read(int tensor, float* out, size_t size) const {
  const Tensor& t = program_->tensor(tensor);
  if (size != size_t(t.pixels()) * t.c) throw std::invalid_argument("an output of another size");
  const size_t offset = t.base[int(options_.reference)];
  if (!t.read || offset == kNowhere) throw std::logic_error("this tensor is not kept");
  const uint8_t* base = state_ + offset;
  const bool overlay = !options_.anchor && options_.reference == Reference::keyframe;
  const uint8_t* changed = scratch_->changed[size_t(tensor)].bytes.data();
  const uint8_t* current = scratch_->current[size_t(tensor)].data();
  const int area = t.h * t.w;
  if (t.planes) {
    const float* planes = reinterpret_cast<const float*>(base);
    const int copiers = size < kFewValues ? 1 : std::min(options_.threads, kMostMembers);
    Team::run(copiers, [](int) {}, [&](int rank, Barrier& barrier) {
      const size_t members = size_t(barrier.members());
      const size_t first = size * size_t(rank) / members;
      const size_t last = size * (size_t(rank) + 1) / members;
      std::memcpy(out + first, planes + first, (last - first) * sizeof(float));
    });
    if (!overlay) return;
    const float* now = reinterpret_cast<const float*>(current);
    for (size_t p = 0; p < size_t(t.pixels()); ++p) {
      if (!changed[p]) continue;
      const size_t at = p / area * (size_t(t.c) - 1) * area + p;
      for (int c = 0; c < t.c; ++c) out[at + size_t(c) * area] = now[at + size_t(c) * area];
    }
    return;
  }
  std::vector<float> room(t.half ? kReadRows * size_t(t.c) : 0);
  for (int n = 0; n < t.n; ++n)
    for (int first = 0; first < area; first += kReadRows) {
      const int count = std::min(kReadRows, area - first);
      const float* rows[kReadRows];
      for (int k = 0; k < count; ++k) {
        const size_t p = size_t(n) * area + first + k;
        const uint8_t* stored = (overlay && changed[p] ? current : base) + p * t.row_bytes();
        rows[k] = reinterpret_cast<const float*>(stored);
        if (!t.half) continue;
        float* wide = room.data() + size_t(k) * t.c;
        program_->kernels_->load_half(wide, reinterpret_cast<const uint16_t*>(stored), t.c);
        rows[k] = wide;
      }
      float* plane = out + size_t(n) * t.c * area + first;
      for (int c = 0; c < t.c; ++c, plane += area)
        for (int k = 0; k < count; ++k) plane[k] = rows[k][c];
    }
}

std::vector<LayerStats> Frame::finish() {
  const Program& p = *program_;
  Scratch& s = *scratch_;
  std::vector<LayerStats> total(p.layers_.size());
  for (const Private& mine : s.privates)
    for (size_t i = 0; i < total.size(); ++i) {
      const LayerStats& m = mine.stats[i];
      for (int k = 0; k < kMaxPool; ++k) total[i].counts[k] += m.counts[k];
      total[i].clipped += m.clipped;
      total[i].active_in += m.active_in;
      total[i].active_out += m.active_out;
    }
  if (finished_) return total;
  finished_ = true;
  if (options_.anchor) {
    if (!options_.keeps) return total;
    float* norms = reinterpret_cast<float*>(state_ + p.norms_);
    for (size_t i = 0; i < p.layers_.size(); ++i) {
      norms[i] = float(sum_of(s.norms[i]) / double(s.norms[i].size()));
    }
    return total;
  }
  if (options_.reference != Reference::keyframe) return total;
  // the codes become the keyframe's again
  for (size_t i = 0; i < p.layers_.size(); ++i) {
    const Layer& layer = p.layers_[i];
    const Tensor& t = p.tensors_[size_t(layer.tensor)];
    const uint8_t* base = state_ + t.base[int(options_.reference)];
    std::vector<float> room(size_t(t.c));
    const Map& active = s.active[i];
    for (int line = 0; line < t.n * t.h; ++line) {
      if (!active.rows[size_t(line)]) continue;
      for (int x = 0; x < t.w; ++x) {
        const size_t pixel = size_t(line) * t.w + x;
        if (!active.bytes[pixel]) continue;
        const int n = line / t.h, y = line % t.h;
        uint8_t* codes = state_ + layer.codes +
                         ((size_t(n) * layer.padded_h + y + layer.top) * layer.padded_w + x +
                          layer.left) *
                             layer.stride;
        float norm;
        uint8_t again;
        const uint8_t* stored = base + pixel * t.row_bytes();
        if (t.half)
          p.kernels_->load_half(room.data(), reinterpret_cast<const uint16_t*>(stored), t.c);
        else std::memcpy(room.data(), stored, t.row_bytes());
        p.kernels_->quantize_frame(layer.quantizers, room.data(), t.c, 1, &codes, &norm, &again);
        for (int plane = 1; plane < layer.quantizers.n_planes; ++plane)
          std::memset(codes + size_t(plane) * layer.plane_bytes, kZeroCode, size_t(t.c));
      }
    }
  }
  return total;
}

void Frame::bit_map(int rows, int columns, double* out) const {
  const Program& p = *program_;
  std::fill_n(out, size_t(rows) * columns, 0.0);
  std::vector<int64_t> above;
  for (size_t i = 0; i < p.layers_.size(); ++i) {
    const Layer& layer = p.layers_[i];
    const Tensor& t = p.tensors_[size_t(layer.tensor)];
    const std::vector<uint8_t>& bits = scratch_->bits[i];
    if (!layer.image || (t.h == 1 && rows > 1)) {
      int64_t sum = 0;
      for (uint8_t b : bits) sum += b;
      const double mean = layer.macs * double(sum) / double(bits.size());
      for (int k = 0; k < rows * columns; ++k) out[k] += mean;
      continue;
    }
    // sums over rectangles from sums over everything above and to the left
    above.assign(size_t(t.h + 1) * (t.w + 1), 0);
    for (int y = 0; y < t.h; ++y) {
      int64_t line = 0;
      for (int x = 0; x < t.w; ++x) {
        for (int n = 0; n < t.n; ++n) line += bits[(size_t(n) * t.h + y) * t.w + x];
        above[size_t(y + 1) * (t.w + 1) + x + 1] = above[size_t(y) * (t.w + 1) + x + 1] + line;
      }
    }
    for (int r = 0; r < rows; ++r) {
      const int y0 = r * t.h / rows, y1 = ((r + 1) * t.h + rows - 1) / rows;
      for (int c = 0; c < columns; ++c) {
        const int x0 = c * t.w / columns, x1 = ((c + 1) * t.w + columns - 1) / columns;
        const auto corner = [&](int y, int x) { return above[size_t(y) * (t.w + 1) + x]; };
        const int64_t sum = corner(y1, x1) - corner(y0, x1) - corner(y1, x0) + corner(y0, x0);
        out[r * columns + c] += layer.macs * double(sum) / (double(y1 - y0) * (x1 - x0) * t.n);
      }
    }
  }
}

}  // namespace resq
