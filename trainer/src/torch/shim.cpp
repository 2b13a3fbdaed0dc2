// The parts of libtorch that `tch` does not expose: fused and foreach operators, generator state, CUDA at run time.
//
// Every function returns null, or the first line of an error message, which is valid until the next call in the
// same thread. A `Tensor*` is an `at::Tensor*` owned by the caller; one that is returned through an out-pointer must
// be freed by the caller (`tch::Tensor::from_ptr`).
// <torch/torch.h> is not included: it costs a minute of compile time, and nothing of it is used here.

#include <dlfcn.h>
#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

namespace {

using Tensor = at::Tensor;

std::string& text() {
    thread_local std::string line;
    return line;
}

const char* say(const char* what) {
    std::string& line = text();
    line = what;
    line.erase(std::min(line.find('\n'), line.size()));
    if (line.empty()) line = "an error without a message";
    return line.c_str();
}

template <class Body>
const char* guarded(Body&& body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const c10::Error& error) {
        return say(error.what_without_backtrace());
    } catch (const std::exception& error) {
        return say(error.what());
    } catch (...) {
        return say("a C++ exception that is not a std::exception");
    }
}

std::vector<Tensor> list(Tensor* const* tensors, size_t n) {
    std::vector<Tensor> all;
    all.reserve(n);
    for (size_t i = 0; i < n; ++i) all.push_back(*tensors[i]);
    return all;
}

std::vector<Tensor> gradients(Tensor* const* parameters, size_t n) {
    std::vector<Tensor> all;
    all.reserve(n);
    for (size_t i = 0; i < n; ++i) {
        const Tensor& gradient = parameters[i]->grad();
        TORCH_CHECK(gradient.defined(), "parameter ", i, " has no gradient");
        all.push_back(gradient);
    }
    return all;
}

at::Generator generator(int64_t cuda) {
    const at::Device device = cuda < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<int8_t>(cuda));
    return at::globalContext().defaultGenerator(device);
}

// Where libtorch_cpu.so lies, as the loader found it.
std::string folder() {
    Dl_info info{};
    void* symbol = dlsym(RTLD_DEFAULT, "_ZN2at13globalContextEv");
    TORCH_CHECK(symbol != nullptr && dladdr(symbol, &info) != 0 && info.dli_fname != nullptr,
                "the loader does not say where libtorch_cpu.so is");
    const std::string path = info.dli_fname;
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

} // namespace

extern "C" {

// One AdamW update (Loshchilov and Hutter 2019) of all parameters. `skip` is a scalar on the device: if it is 1,
// nothing changes. The host does not read it.
const char* perennial_torch_adamw(size_t n, Tensor* const* parameters, Tensor* const* first, Tensor* const* second,
                                  Tensor* const* steps, const Tensor* skip, double rate, double beta1, double beta2,
                                  double decay, double epsilon) {
    return guarded([&] {
        if (n == 0) return;
        at::NoGradGuard no_grad;
        const auto values = list(parameters, n), counts = list(steps, n);
        at::_foreach_add_(counts, skip->neg().add(1));
        at::_fused_adamw_(values, gradients(parameters, n), list(first, n), list(second, n), {}, counts, rate, beta1,
                          beta2, decay, epsilon, /*amsgrad=*/false, /*maximize=*/false, {}, *skip);
    });
}

// Scales all gradients so that their joint 2-norm is at most `limit` (0: does not scale). Returns the norm before
// scaling, and a scalar that is 1 if the norm is not finite.
const char* perennial_torch_clip(size_t n, Tensor* const* parameters, double limit, Tensor** norm, Tensor** skip) {
    return guarded([&] {
        TORCH_CHECK(n > 0, "there are no parameters");
        at::NoGradGuard no_grad;
        const auto all = gradients(parameters, n);
        const Tensor total = at::linalg_vector_norm(at::stack(at::_foreach_norm(all, 2)));
        if (limit > 0) at::_foreach_mul_(all, total.add(1e-6).reciprocal().mul(limit).clamp_max(1.0));
        const Tensor bad = at::isfinite(total).logical_not().to(at::kFloat);
        *norm = new Tensor(total);
        *skip = new Tensor(bad);
    });
}

// to[i] += weight * (from[i] - to[i])
const char* perennial_torch_lerp(size_t n, Tensor* const* to, Tensor* const* from, double weight) {
    return guarded([&] {
        if (n == 0) return;
        at::NoGradGuard no_grad;
        at::_foreach_lerp_(list(to, n), list(from, n), weight);
    });
}

// to[i] = from[i], in to[i]'s own dtype.
const char* perennial_torch_copy(size_t n, Tensor* const* to, Tensor* const* from) {
    return guarded([&] {
        if (n == 0) return;
        at::NoGradGuard no_grad;
        at::_foreach_copy_(list(to, n), list(from, n));
    });
}

// Adds the gradients of `from` to those of `to`, in the dtype of `to`, and drops them. A `to` without a gradient
// gets one; each `to` must occur once.
const char* perennial_torch_collect(size_t n, Tensor* const* to, Tensor* const* from) {
    return guarded([&] {
        if (n == 0) return;
        at::NoGradGuard no_grad;
        const auto all = gradients(from, n);
        std::vector<Tensor> sums, terms, copies, values;
        for (size_t i = 0; i < n; ++i) {
            Tensor& sum = to[i]->mutable_grad();
            const bool begun = sum.defined();
            if (!begun) sum = at::empty_like(*to[i]);
            (begun ? sums : copies).push_back(sum);
            (begun ? terms : values).push_back(all[i]);
            from[i]->mutable_grad().reset();
        }
        if (!copies.empty()) at::_foreach_copy_(copies, values);
        if (!sums.empty()) at::_foreach_add_(sums, terms);
    });
}

// Drops the gradients.
const char* perennial_torch_drop(size_t n, Tensor* const* parameters) {
    return guarded([&] {
        for (size_t i = 0; i < n; ++i) parameters[i]->mutable_grad().reset();
    });
}

// State of the default generator of the CPU (`cuda` < 0) or of a CUDA device, as bytes.
const char* perennial_torch_rng_get(int64_t cuda, Tensor** state) {
    return guarded([&] {
        at::Generator source = generator(cuda);
        std::lock_guard<std::mutex> lock(source.mutex());
        *state = new Tensor(source.get_state());
    });
}

const char* perennial_torch_rng_set(int64_t cuda, const Tensor* state) {
    return guarded([&] {
        at::Generator source = generator(cuda);
        std::lock_guard<std::mutex> lock(source.mutex());
        source.set_state(*state);
    });
}

// The configuration of the *loaded* libtorch; `at::show_config` is compiled into it.
const char* perennial_torch_show(const char** shown) {
    return guarded([&] {
        text() = at::show_config();
        *shown = text().c_str();
    });
}

const char* perennial_torch_capability(const char** shown) {
    return guarded([&] {
        text() = at::get_cpu_capability();
        *shown = text().c_str();
    });
}

const char* perennial_torch_folder(const char** shown) {
    return guarded([&] {
        text() = folder();
        *shown = text().c_str();
    });
}

// Loads libtorch_cuda.so from the folder of libtorch_cpu.so. Must be called before anything asks libtorch for CUDA:
// libtorch looks for the hooks only once.
const char* perennial_torch_load_cuda() {
    return guarded([&] {
        const std::string path = folder() + "/libtorch_cuda.so";
        if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
            const char* why = dlerror();
            TORCH_CHECK(false, why == nullptr ? "dlopen failed without a text" : why);
        }
    });
}

// The major compute capability of a CUDA device, from the CUDA runtime that libtorch_cuda loaded. The build does not
// need its headers: 75 is cudaDevAttrComputeCapabilityMajor, which is part of its stable ABI.
const char* perennial_torch_cuda_capability(int32_t device, int32_t* major) {
    return guarded([&] {
        using Ask = int (*)(int*, int, int);
        const auto ask = reinterpret_cast<Ask>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
        TORCH_CHECK(ask != nullptr, "the CUDA runtime is not loaded");
        int value = 0;
        const int refused = ask(&value, 75, device);
        TORCH_CHECK(refused == 0, "the CUDA runtime refused with ", refused);
        *major = value;
    });
}

// Keeps freed memory in the process. Every step frees and allocates the same tensors; returning them to the kernel
// in between costs a tenth of a small model's time. Other threads would get heaps of 64 MiB each that cannot be
// kept, so all threads share the first heap.
void perennial_torch_keep_memory() {
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
}

} // extern "C"
