/* The engine without Python: several threads share a TexTok and a DiT, each with calls on two threads of the pool. Built with
 * -fsanitize=thread by thread_sanitizer.py, which says which row of kernels; ends with 1 where bits differ between threads. */
#include "textok.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

enum { THREADS = 6, S = 16, N = 6, D = 5, TOKENS = 6, CHANNELS = 5 };

static struct tx_model *textok, *dit;
static int turns;
static float expected_z[N * D], expected_x[TOKENS * CHANNELS * 2];

static int get(void *arg, size_t index, struct tx_values *values)
{
    static float numbers[1 << 16];
    const struct tx_model *model = arg;
    const char *name;
    size_t shape[3];
    const int rank = tx_model_tensor(model, index, &name, shape);
    size_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= shape[i];
    for (size_t i = 0; i < count; i++)
        numbers[i] = (float)((i * 2654435761u + index * 97) % 1000) / 5000.0f - 0.1f;
    *values = (struct tx_values){.dtype = TX_F32, .data = numbers};
    return count > sizeof numbers / sizeof *numbers;
}

static void encode(float *z)
{
    static uint8_t image[S * S * 3];
    struct tx_error err;
    const struct tx_text none = {0};
    if (tx_textok_encode(textok, &(struct tx_call){.threads = 2, .err = &err}, image, 1, &none, 1, z) != TX_OK)
        abort();
}

static void denoise(float *out)
{
    static const float x[TOKENS * CHANNELS] = {0.5f, -0.25f, 1.0f}, t[1] = {400};
    static const int32_t labels[1] = {2};
    struct tx_error err;
    const struct tx_text text = {.labels = labels};
    if (tx_dit_denoise_call(dit, &(struct tx_call){.threads = 2, .err = &err}, x, t, &text, 1, out) != TX_OK)
        abort();
}

static void *work(void *arg)
{
    float z[N * D], x[TOKENS * CHANNELS * 2];
    for (int i = 0; i < turns; i++) {
        encode(z);
        denoise(x);
        if (memcmp(z, expected_z, sizeof z) || memcmp(x, expected_x, sizeof x))
            *(int *)arg = 1;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    turns = argc > 1 ? atoi(argv[1]) : 20;
    const struct tx_side_config side = {.hidden_size = 32, .depth = 2, .num_heads = 2, .mlp_ratio = 4};
    union tx_model_config config = {.textok = {.image_size = S, .patch_size = 4, .num_latent_tokens = N, .latent_dim = D,
        .text_condition = TX_TEXT_NONE, .qkv_bias = 1, .norm_eps = 1e-6, .tokenizer = side, .detokenizer = side}};
    struct tx_error err;
    const struct tx_kernels *kernels = tx_kernels_row(argc > 2 ? atoi(argv[2]) : 0);
    if (!kernels || tx_model_open(&textok, kernels, TX_MODEL_TEXTOK, TX_BOTH_SIDES, TX_BF16, &config, &err) != TX_OK ||
        tx_model_load(textok, get, textok, 2, &err) != TX_OK)
        return 2;
    config = (union tx_model_config){.dit = {.num_tokens = TOKENS, .in_channels = CHANNELS, .num_classes = 9,
        .time_freq_dim = 16, .patch_size = 1, .learn_sigma = 1, .norm_eps = 1e-6, .body = side}};
    if (tx_model_open(&dit, kernels, TX_MODEL_DIT, TX_BOTH_SIDES, TX_F32, &config, &err) != TX_OK ||
        tx_model_load(dit, get, dit, 2, &err) != TX_OK)
        return 2;
    encode(expected_z);
    denoise(expected_x);
    pthread_t threads[THREADS];
    int wrong[THREADS] = {0}, failed = 0;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, &wrong[i]);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        failed |= wrong[i];
    }
    tx_model_close(textok);
    tx_model_close(dit);
    printf("%d threads, %d turns, %s\n", THREADS, turns, failed ? "other bits" : "equal bits");
    return failed;
}
