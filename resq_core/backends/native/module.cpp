// The Python face of the native backend. What is checked here guards memory; what the numbers
// mean is planning.py's business, the only caller.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "cpu.hpp"
#include "program.hpp"
#include "winners.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;
using Weights = nb::ndarray<const int8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using State = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

using FrameQuantizer = std::tuple<float, float, float, float, int>;
using PoolTuple = std::tuple<float, float, float, float, float, int, int>;
using PhaseTuple =
    std::tuple<int, int, int, int, int, int, std::vector<int>, std::vector<int>>;

int add_layer(resq::Program& program, int tensor, std::tuple<int, int, int> out,
              std::tuple<int, int, int, int> padding, FrameQuantizer frame,
              const std::vector<float>& planes, const std::vector<PoolTuple>& pool, float quiet, float fresh,
              float weight_norm, double macs, bool image, const std::vector<PhaseTuple>& phases) {
  resq::Layer layer{};
  layer.tensor = tensor;
  std::tie(layer.out_h, layer.out_w, layer.out_c) = out;
  std::tie(layer.top, layer.left, layer.padded_h, layer.padded_w) = padding;
  const resq::Tensor& input = program.tensor(tensor);
  require(!planes.empty() && planes.size() <= size_t(resq::kMaxPlanes), "1 to 9 planes");
  require(pool.size() <= size_t(resq::kMaxPool), "a pool of up to 9");
  require(layer.top >= 0 && layer.left >= 0 && layer.padded_h >= layer.top + input.h &&
              layer.padded_w >= layer.left + input.w,
          "the padded plane holds its input");
  resq::Quantizers& q = layer.quantizers;
  q.channels = input.c;
  q.n_planes = int(planes.size());
  std::copy(planes.begin(), planes.end(), q.plane_scale);
  std::tie(q.frame_inverse, q.frame_low, q.frame_high, q.frame_step, q.frame_bits) = frame;
  q.n_pool = int(pool.size());
  for (size_t i = 0; i < pool.size(); ++i) {
    resq::PoolEntry& e = q.pool[i];
    std::tie(e.scale, e.inverse, e.low, e.high, e.step, e.bits, e.plane) = pool[i];
    require(e.plane >= 0 && e.plane < q.n_planes, "a pool entry names a plane");
  }
  q.quiet = quiet;
  q.fresh = fresh;
  layer.weight_norm = weight_norm;
  layer.macs = macs;
  layer.image = image;
  for (const PhaseTuple& given : phases) {
    resq::Phase phase{};
    std::tie(phase.out_y, phase.out_x, phase.first_y, phase.first_x, phase.in_y, phase.in_x,
             phase.dy, phase.dx) = given;
    require(phase.out_y > 0 && phase.out_x > 0 && phase.in_y > 0 && phase.in_x > 0, "strides");
    require(phase.first_y >= 0 && phase.first_y < phase.out_y && phase.first_x >= 0 &&
                phase.first_x < phase.out_x,
            "a phase begins within a stride");
    require(layer.phases.empty() || (layer.phases[0].out_y == phase.out_y &&
                                     layer.phases[0].out_x == phase.out_x),
            "phases of one stride");
    const int rows = (layer.out_h - phase.first_y + phase.out_y - 1) / phase.out_y;
    const int columns = (layer.out_w - phase.first_x + phase.out_x - 1) / phase.out_x;
    for (int d : phase.dy)
      require(d >= 0 && (rows <= 0 || (rows - 1) * phase.in_y + d < layer.padded_h), "taps in y");
    for (int d : phase.dx)
      require(d >= 0 && (columns <= 0 || (columns - 1) * phase.in_x + d < layer.padded_w),
              "taps in x");
    layer.phases.push_back(std::move(phase));
  }
  require(!layer.phases.empty(), "at least one phase");
  return program.add_layer(std::move(layer));
}

const float* optional_data(const std::optional<Floats>& array) {
  return array ? array->data() : nullptr;
}

void add_block(resq::Program& program, int layer, int phase, int plane, int group, int groups,
               const Weights& weights, const Floats& multiplier,
               const std::optional<Floats>& bias) {
  const size_t channels = weights.shape(2) * size_t(groups);
  require(multiplier.size() == channels && (!bias || bias->size() == channels), "per channel");
  program.add_block(layer, phase, plane, group, weights.data(), multiplier.data(),
                    optional_data(bias), int(weights.shape(1)), int(weights.shape(2)), groups);
}

void add_depthwise(resq::Program& program, int layer, const Weights& weights,
                   const Floats& multiplier, const std::optional<Floats>& bias) {
  require(multiplier.size() == weights.shape(2), "per channel");
  program.add_depthwise(layer, weights.data(), multiplier.data(), optional_data(bias));
}

resq::Op op_named(const std::string& name) {
  const char* names[] = {"copy",    "conv",    "bilinear", "nearest", "average",
                         "maximum", "mean", "concat",   "import"};
  for (int i = 0; i < 9; ++i)
    if (name == names[i]) return resq::Op(i);
  throw std::invalid_argument("no step is called " + name);
}

struct StepBuilder {
  resq::Step step;
};

nb::ndarray<nb::numpy, int64_t, nb::ndim<2>> finish(resq::Frame& frame) {
  const std::vector<resq::LayerStats> stats = frame.finish();
  constexpr size_t width = resq::kMaxPool + 3;
  int64_t* data = new int64_t[stats.size() * width];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<int64_t*>(p); });
  for (size_t i = 0; i < stats.size(); ++i) {
    int64_t* row = data + i * width;
    std::copy_n(stats[i].counts, resq::kMaxPool, row);
    row[resq::kMaxPool] = stats[i].clipped;
    row[resq::kMaxPool + 1] = stats[i].active_in;
    row[resq::kMaxPool + 2] = stats[i].active_out;
  }
  return nb::ndarray<nb::numpy, int64_t, nb::ndim<2>>(data, {stats.size(), width}, owner);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native CPU kernels; resq_core.backends.extension loads them.";
  m.def("cpu_features", &resq::cpu_features,
        "Instruction-set extensions that processor and operating system support.");
  m.def("isas", &resq::isas, "Kernel variants that can run here, best first.");

  m.def(
      "winners",
      [](const Scores& scores, int rows, int columns, const std::string& isa) {
        require(rows > 0 && columns > 0 && scores.size() > 0, "no side is empty");
        require(scores.shape(0) <= 256, "an id is a byte");
        const resq::Kernels* kernels = resq::kernels_for(isa);
        uint8_t* ids = new uint8_t[size_t(rows) * columns];
        nb::capsule owner(ids, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
        {
          nb::gil_scoped_release release;
          resq::winners(*kernels, scores.data(), int(scores.shape(0)), int(scores.shape(1)),
                        int(scores.shape(2)), rows, columns, ids);
        }
        return nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>(
            ids, {size_t(rows), size_t(columns)}, owner);
      },
      "scores"_a.noconvert(), "rows"_a, "columns"_a, "isa"_a,
      "The class with the largest of float32 scores [K, h, w], resized to rows by columns.");

  nb::class_<StepBuilder>(m, "Step")
      .def(
          "__init__",
          [](StepBuilder* self, const std::string& op, std::vector<int> inputs, int out,
             int layer) {
            new (self) StepBuilder{};
            self->step.op = op_named(op);
            self->step.inputs = std::move(inputs);
            self->step.out = out;
            self->step.layer = layer;
          },
          "op"_a, "inputs"_a, "out"_a, "layer"_a = -1)
      .def("relu", [](StepBuilder& b) { b.step.post.push_back({resq::Post::relu, -1, 0, 0, {}, {}}); })
      .def("half", [](StepBuilder& b) { b.step.post.push_back({resq::Post::half, -1, 0, 0, {}, {}}); })
      .def("clamp",
           [](StepBuilder& b, float low, float high) {
             b.step.post.push_back({resq::Post::clamp, -1, low, high, {}, {}});
           })
      .def("affine",
           [](StepBuilder& b, const Floats& weight, const Floats& bias) {
             require(weight.size() == bias.size(), "per channel");
             b.step.post.push_back({resq::Post::affine, -1, 0, 0,
                                    {weight.data(), weight.data() + weight.size()},
                                    {bias.data(), bias.data() + bias.size()}});
           })
      .def("add",
           [](StepBuilder& b, int tensor) {
             b.step.post.push_back({resq::Post::add, tensor, 0, 0, {}, {}});
           })
      .def("keep_raw",
           [](StepBuilder& b, int tensor) {
             b.step.raw = tensor;
             b.step.raw_post = int(b.step.post.size());
           })
      .def("resize",
           [](StepBuilder& b, std::vector<int> y0, std::vector<int> y1, std::vector<float> wy0,
              std::vector<float> wy1, std::vector<int> x0, std::vector<int> x1,
              std::vector<float> wx0, std::vector<float> wx1) {
             resq::Step& s = b.step;
             s.y0 = std::move(y0), s.y1 = std::move(y1);
             s.wy0 = std::move(wy0), s.wy1 = std::move(wy1);
             s.x0 = std::move(x0), s.x1 = std::move(x1);
             s.wx0 = std::move(wx0), s.wx1 = std::move(wx1);
           })
      .def("window", [](StepBuilder& b, std::pair<int, int> kernel, std::pair<int, int> stride,
                        std::pair<int, int> padding, bool count_pad) {
        resq::Step& s = b.step;
        std::tie(s.kernel_h, s.kernel_w) = kernel;
        std::tie(s.stride_h, s.stride_w) = stride;
        std::tie(s.pad_h, s.pad_w) = padding;
        s.count_pad = count_pad;
      });

  nb::class_<resq::Program>(m, "Program")
      .def(nb::init<const std::string&>(), "isa"_a)
      .def("add_tensor", &resq::Program::add_tensor)
      .def("mark_read", &resq::Program::mark_read)
      .def("add_layer", &add_layer, "tensor"_a, "out"_a, "padding"_a, "frame"_a, "planes"_a,
           "pool"_a, "quiet"_a, "fresh"_a, "weight_norm"_a, "macs"_a, "image"_a, "phases"_a)
      .def("add_block", &add_block, "layer"_a, "phase"_a, "plane"_a, "group"_a, "groups"_a,
           "weights"_a, "multiplier"_a, "bias"_a.none())
      .def("add_depthwise", &add_depthwise, "layer"_a, "weights"_a, "multiplier"_a,
           "bias"_a.none())
      .def("add_step", [](resq::Program& p, const StepBuilder& b) {
        p.add_step(b.step);
        return p.n_steps() - 1;
      })
      .def("finish", &resq::Program::finish)
      .def("state_bytes",
           [](const resq::Program& p, int reference) {
             return p.state_bytes(resq::Reference(reference));
           })
      .def_prop_ro("isa", &resq::Program::isa);

  nb::class_<resq::Frame>(m, "Frame")
      .def(
          "__init__",
          [](resq::Frame* self, std::shared_ptr<resq::Program> program,
             std::optional<State> state, bool anchor, int reference, bool relative,
             bool look_everywhere, bool refresh, bool bits, bool timed, int threads,
             int probe, double most, std::vector<float> thresholds) {
            require(reference >= 0 && reference < resq::kReferences, "reference is 0 to 2");
            require(thresholds.size() == size_t(program->n_layers()), "a threshold per layer");
            require(state || anchor, "a residual frame needs a state");
            require(probe >= -1 && probe < program->n_layers(), "the probe is a layer");
            const resq::FrameOptions options{anchor,          bool(state), resq::Reference(reference),
                                             relative,        look_everywhere,
                                             refresh,         bits,        timed,
                                             std::max(threads, 1), probe, most};
            require(!refresh || (!anchor && options.reference == resq::Reference::tracking),
                    "only what is tracked can be refreshed");
            require(!state || state->size() >= program->state_bytes(options.reference),
                    "the state is too small");
            require(!state || reinterpret_cast<uintptr_t>(state->data()) % 64 == 0,
                    "the state is not aligned to 64 bytes");
            new (self) resq::Frame(std::move(program), state ? state->data() : nullptr, options,
                                   std::move(thresholds));
          },
          // a converted copy would be gone before the frame runs
          "program"_a, "state"_a.none().noconvert(), "anchor"_a, "reference"_a, "relative"_a,
          "look_everywhere"_a, "refresh"_a, "bits"_a, "timed"_a, "threads"_a, "probe"_a, "most"_a,
          "thresholds"_a,
          nb::keep_alive<1, 3>())
      .def(
          "bind",
          [](resq::Frame& frame, int step, const Image& data) {
            const int64_t strides[4] = {data.stride(0), data.stride(1), data.stride(2),
                                        data.stride(3)};
            frame.bind(step, data.data(), strides,
                       {int64_t(data.shape(0)), int64_t(data.shape(1)), int64_t(data.shape(2)),
                        int64_t(data.shape(3))});
          },
          "step"_a, "data"_a.noconvert(), nb::keep_alive<1, 3>())
      .def("run", &resq::Frame::run, nb::call_guard<nb::gil_scoped_release>())
      .def("read",
           [](const resq::Frame& frame, int tensor, const Output& out) {
             frame.read(tensor, out.data(), out.size());
           },
           "tensor"_a, "out"_a.noconvert())
      .def("finish", &finish)
      .def("bit_map",
           [](const resq::Frame& frame, int rows, int columns) {
             double* data = new double[size_t(rows) * columns];
             nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<double*>(p); });
             frame.bit_map(rows, columns, data);
             return nb::ndarray<nb::numpy, double, nb::ndim<2>>(
                 data, {size_t(rows), size_t(columns)}, owner);
           })
      .def("times", [](const resq::Frame& frame) {
        std::vector<std::tuple<double, double, int64_t>> times;
        for (const resq::StepTime& t : frame.times())
          times.emplace_back(t.total, t.product, t.pixels);
        return times;
      });
}
