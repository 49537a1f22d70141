"""Tests of the kv.tensor adapter that need no server: python3 -m unittest test_tensors"""

import unittest

import numpy as np
import tensors


class Binary(unittest.TestCase):
    def test_bytes_of_a_small_tensor(self):
        data = tensors.to_binary(np.array([[1.0, -2.0]], np.float16))
        self.assertEqual(data, bytes([1, 1, 2, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x00, 0x3C, 0x00, 0xC0]))

    def test_there_and_back(self):
        random = np.random.default_rng(1)
        for dtype in (np.float32, np.float16):
            for shape in ((), (0,), (7,), (2, 3, 4, 5, 6), (3, 0, 2)):
                array = random.standard_normal(shape).astype(dtype)
                back = tensors.from_binary(tensors.to_binary(array))
                self.assertEqual((back.dtype, back.shape), (array.dtype, array.shape))
                np.testing.assert_array_equal(back, array)

    def test_strided_and_big_endian_arrays_are_sent_in_order(self):
        array = np.arange(24, dtype=np.float32).reshape(4, 6)
        for other in (array[::2, ::3], array.T, array.astype(">f4")):
            np.testing.assert_array_equal(tensors.from_binary(tensors.to_binary(other)), other)

    def test_bf16_arrives_as_float32(self):
        data = bytes([1, 2, 1, 0, 0, 0, 0, 2, 0x80, 0x3F, 0x20, 0xC1])
        np.testing.assert_array_equal(tensors.from_binary(data), np.array([1.0, -10.0], np.float32))

    def test_what_cannot_be_sent(self):
        with self.assertRaisesRegex(TypeError, "float64"):
            tensors.to_binary(np.zeros(3))
        with self.assertRaisesRegex(ValueError, "5 dimensions"):
            tensors.to_binary(np.zeros((1,) * 6, np.float32))
        with self.assertRaisesRegex(ValueError, "version 9"):
            tensors.from_binary(bytes([9, 0, 0, 0]))


class Text(unittest.TestCase):
    def test_text(self):
        np.testing.assert_array_equal(
            tensors.from_text("f16[2,3]{1,2,3,4,5,-0.5}"), np.array([[1, 2, 3], [4, 5, -0.5]], np.float16)
        )
        self.assertEqual(tensors.from_text("f32[0]{}").shape, (0,))
        self.assertEqual(tensors.from_text("bf16[1]{1e10}").dtype, np.float32)

    def test_not_a_tensor(self):
        with self.assertRaisesRegex(ValueError, "not a kv.tensor"):
            tensors.from_text("[1,2,3]")


if __name__ == "__main__":
    unittest.main()
