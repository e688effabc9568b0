/* Made by polynomials.py. Polynomials by ascending power. */
#ifndef TXK_NEON_POLYNOMIALS_H
#define TXK_NEON_POLYNOMIALS_H

/* e^r for |r| <= ln(2)/2 */
static const float poly_exp[7] = {
    0x1.0000000000000p+0f, 0x1.0000000000000p+0f, 0x1.fffffc0000000p-2f, 0x1.5554920000000p-3f,
    0x1.5558f20000000p-5f, 0x1.1239d40000000p-7f, 0x1.6a244c0000000p-10f,
};

/* 2^r for |r| <= 1/2 */
static const float poly_exp2[6] = {
    0x1.0000000000000p+0f, 0x1.62e42a0000000p-1f, 0x1.ebf9bc0000000p-3f, 0x1.c6b7520000000p-5f,
    0x1.3cea880000000p-7f, 0x1.5bba140000000p-10f,
};

/* tanh(x) / x in powers of x^2 for |x| <= 0.625 */
static const float poly_tanh[6] = {
    0x1.0000000000000p+0f, -0x1.5555320000000p-2f, 0x1.1107260000000p-3f, -0x1.b83c5a0000000p-5f,
    0x1.52269a0000000p-6f, -0x1.75e1cc0000000p-8f,
};

/* u = 1 / (1 + mills t) */
static const float poly_mills = 0x1.6000000000000p-2f;

/* erfc(t / sqrt 2) / 2 e^(t^2/2) / u in powers of u */
static const float poly_normal_tail[9] = {
    0x1.18d2320000000p-3f, 0x1.19afc40000000p-3f, 0x1.de2b3c0000000p-4f, 0x1.cd72780000000p-4f,
    -0x1.4201160000000p-5f, 0x1.87018a0000000p-3f, -0x1.163c2a0000000p-2f, 0x1.269a560000000p-3f,
    -0x1.c7a0b40000000p-6f,
};

#endif
