mod power_loss;
